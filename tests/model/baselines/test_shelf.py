from pathlib import Path

import pytest
import torch

from model.baselines.histories import Histories
from model.baselines.kinds import BASELINES
from model.baselines.popularity_baseline import PopularityBaseline, PopularitySettings
from model.baselines.shelf import KeptBaseline, Shelf
from model.errors import DamagedVersionError, UnknownVersionError, VersionFault
from model.vocabulary import Vocabulary
from tests.model.baselines.sessions_of_rows import fitted, shuffled

ITEMS = 12
VOCABULARY = Vocabulary([f"item-{row}" for row in range(ITEMS)])
BRIEF = {"bert4rec": {"epochs": 1}, "sasrec": {"epochs": 1}, "bpr-mf": {"epochs": 1}, "fpmc": {"epochs": 1}}
POPULAR = PopularityBaseline(PopularitySettings(half_life_clicks=8.0), torch.tensor([2.0, 0.5]))
MANIFEST = b"""{
  "schema": 1,
  "version": "popular",
  "kind": "popularity",
  "settings": {
    "half_life_clicks": 8.0,
    "in_session": false
  },
  "train_s": 0.25,
  "files": {
    "weights.safetensors": {
      "sha256": "2066a9940fe1ea7f1796736b9281e5babeab84cbba4aedc034235a3d0e76203a",
      "bytes": 80
    },
    "vocabulary.json": {
      "sha256": "0473ef2dc0d324ab659d3580c1134e9d812035905c4781fdd6d529b0c6860e13",
      "bytes": 9
    }
  }
}
"""
FILES = {
    "manifest.json": MANIFEST,
    "vocabulary.json": b'["a","b"]',
    "weights.safetensors": b'@\0\0\0\0\0\0\0{"weights":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}    '
    b"\0\0\0@\0\0\0?",
}


@pytest.mark.parametrize("kind", list(BASELINES))
@pytest.mark.parametrize("place", ["folder", "memory"])
def test_what_is_kept_answers_as_before(kind: str, place: str, tmp_path: Path) -> None:
    shelf = Shelf(str(tmp_path / "shelf") if place == "folder" else f"memory://shelf-{kind}")
    baseline = fitted(kind, shuffled(ITEMS, sessions=40, seed=1), ITEMS, **BRIEF.get(kind, {}))
    shelf.write(f"{kind}-1", KeptBaseline(baseline, VOCABULARY, 1.5))
    assert shelf.names() == [f"{kind}-1"]
    loaded = shelf.load(f"{kind}-1")
    histories = Histories.of([[1, 2], [], [3]])
    assert torch.equal(loaded.baseline.score(histories), baseline.score(histories))
    assert loaded.baseline.settings == baseline.settings
    assert loaded.vocabulary.item_ids == VOCABULARY.item_ids
    assert loaded.train_s == 1.5


def test_files_of_the_first_release_are_written_and_read(tmp_path: Path) -> None:
    shelf = Shelf(str(tmp_path))
    shelf.write("popular", KeptBaseline(POPULAR, Vocabulary(["a", "b"]), 0.25))
    assert {file.name: file.read_bytes() for file in (tmp_path / "popular").iterdir()} == FILES
    loaded = shelf.load("popular")
    assert loaded.baseline.settings == POPULAR.settings
    assert loaded.baseline.to_tensors()["weights"].tolist() == [2.0, 0.5]


def damage(folder: Path, how: str) -> None:
    manifest, weights = folder / "manifest.json", folder / "weights.safetensors"
    if how == "hash":
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    elif how == "size":
        weights.write_bytes(weights.read_bytes() + b"\x00")
    elif how == "missing-file":
        weights.unlink()
    elif how == "schema":
        manifest.write_text(manifest.read_text().replace('"schema": 1', '"schema": 2'))
    elif how == "shape":
        manifest.write_text(manifest.read_text().replace('"popularity"', '"item-knn"'))
    else:
        manifest.write_text("{")


@pytest.mark.parametrize("how", ["hash", "size", "missing-file", "schema", "shape", "manifest"])
def test_a_damaged_one_is_refused_and_says_why(how: VersionFault, tmp_path: Path) -> None:
    shelf = Shelf(str(tmp_path))
    shelf.write("popular", KeptBaseline(POPULAR, Vocabulary(["a", "b"]), 0.25))
    damage(tmp_path / "popular", how)
    with pytest.raises(DamagedVersionError) as caught:
        shelf.load("popular")
    assert caught.value.reason == how


def test_what_is_not_there_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    shelf = Shelf(str(tmp_path))
    with pytest.raises(UnknownVersionError, match="there is no version popular"):
        shelf.load("popular")
    with pytest.raises(ValueError, match="the baseline has 2 items and the vocabulary 1"):
        shelf.write("popular", KeptBaseline(POPULAR, Vocabulary(["a"]), 0.25))
    with pytest.raises(ValueError, match="is no name"):
        shelf.write("../popular", KeptBaseline(POPULAR, Vocabulary(["a", "b"]), 0.25))
    assert shelf.names() == []

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from model.announcements import RefreshAnnouncement
from model.companion import Companion, Mixing
from model.errors import DamagedVersionError, InvalidAnnouncementError, UnknownVersionError
from model.gru4rec import EMBEDDING, GRU4Rec, GRU4RecSettings
from model.refresh import Refresh
from model.refreshes import Refreshes, RefreshManifest
from model.registry import ModelVersion
from model.transitions import Neighbours
from model.vocabulary import Vocabulary

BASE = "20261123T211530Z-1a2b3c"
NAME = "20261123T211600Z-00ff00"
# Stored and announced bytes outlive releases: they are changed with a new schema and a reader for both.
GOLDEN_ANNOUNCEMENT = (
    b'{"refresh":"20261123T211600Z-00ff00","base":"20261123T211530Z-1a2b3c","sha256":"ab","announced_at_ms":5}'
)
GOLDEN_MANIFEST = """\
{
  "schema": 1,
  "version": "20261123T211600Z-00ff00",
  "base": "20261123T211530Z-1a2b3c",
  "items": 4,
  "vocabulary_sha256": "dd11a38a5d9a7b36",
  "files": {
    "items.json": {
      "sha256": "0a",
      "bytes": 5
    }
  },
  "read_until": {
    "0": 17
  },
  "created_at_ms": 1795468560000
}
"""


def neighbours(items: int, **successors: list[tuple[int, float]]) -> Neighbours:
    """Return neighbours with some successors, by `_row`, and no predecessors."""
    lists = [successors.get(f"_{row}", []) for row in range(items)]
    offsets = np.cumsum([0, *map(len, lists)])
    flat = [entry for entries in lists for entry in entries]
    rows = np.array([row for row, _ in flat], dtype=np.int32)
    shares = np.array([share for _, share in flat], dtype=np.float32)
    none = Neighbours.none(items)
    return replace(none, successor_offsets=offsets, successor_rows=rows, successor_shares=shares)


def base() -> ModelVersion:
    network = GRU4Rec.initialised(
        GRU4RecSettings(embedding_size=2, hidden_sizes=(2,)), 3, torch.Generator().manual_seed(1)
    )
    companion = Companion(neighbours(3, _0=[(1, 0.5), (2, 0.25)], _2=[(0, 0.75)]), Mixing(forward=0.7))
    return ModelVersion(BASE, None, network, Vocabulary(["a", "b", "c"]), created_at_ms=1, companion=companion)


def refresh() -> Refresh:
    """A new item d after c, and other successors of c."""
    return Refresh(
        name=NAME,
        base=BASE,
        item_ids=["d"],
        vectors={EMBEDDING: torch.tensor([[1.0, 2.0]])},
        rows=np.array([2, 3]),
        neighbours=neighbours(4, _2=[(3, 0.5), (0, 0.25)], _3=[(1, 1.0)]),
        read_until={0: 17, 11: 4},
        created_at_ms=2,
    )


@pytest.fixture(params=["local", "object store"])
def refreshes(request: pytest.FixtureRequest, tmp_path: Path) -> Refreshes:
    return Refreshes(str(tmp_path / "registry") if request.param == "local" else f"memory://{tmp_path}/registry")


def successors(version: ModelVersion, row: int) -> list[tuple[int, float]]:
    assert version.companion is not None
    found = version.companion.neighbours
    entries = slice(found.successor_offsets[row], found.successor_offsets[row + 1])
    return list(zip(found.successor_rows[entries].tolist(), found.successor_shares[entries].tolist(), strict=True))


def test_announcement_is_written_and_read_as_the_golden_bytes() -> None:
    announcement = RefreshAnnouncement(NAME, BASE, "ab", 5)
    assert announcement.encode() == GOLDEN_ANNOUNCEMENT
    assert RefreshAnnouncement.decode(GOLDEN_ANNOUNCEMENT.replace(b"{", b'{"later":1,', 1)) == announcement
    with pytest.raises(InvalidAnnouncementError, match="missing required field"):
        RefreshAnnouncement.decode(b"{}")


def test_manifest_is_written_as_the_golden_bytes() -> None:
    fields = json.loads(GOLDEN_MANIFEST) | {"read_until": {0: 17}}
    assert RefreshManifest(**fields).encode().decode() == GOLDEN_MANIFEST


def test_it_changes_the_neighbours_of_its_rows_and_appends_its_items() -> None:
    before = base()
    after = refresh().applied_to(before)
    assert after.vocabulary.item_ids == ["a", "b", "c", "d"]
    assert [successors(after, row) for row in range(4)] == [
        [(1, 0.5), (2, 0.25)],
        [],
        [(3, 0.5), (0, 0.25)],
        [(1, 1.0)],
    ]
    assert after.network.parameters[EMBEDDING][3].tolist() == [1.0, 2.0]
    assert torch.equal(after.network.parameters[EMBEDDING][:3], before.network.parameters[EMBEDDING])
    assert after.version == BASE
    assert after.companion is not None
    assert after.companion.mixing == Mixing(forward=0.7)
    assert len(before.vocabulary) == 3


@pytest.mark.parametrize(
    "version",
    [replace(base(), version="another"), replace(base(), companion=None)],
    ids=["another version", "no companion"],
)
def test_it_fits_its_own_version_alone(version: ModelVersion) -> None:
    with pytest.raises(ValueError, match=f"a change to version {BASE} and its companion"):
        refresh().applied_to(version)


def test_what_was_written_is_read_back_bit_for_bit(refreshes: Refreshes) -> None:
    written = refresh()
    sha256 = refreshes.write(written, base().vocabulary.extended(["d"]))
    read = refreshes.load(NAME, sha256, base().vocabulary)
    assert (read.name, read.base, read.item_ids, read.read_until, read.created_at_ms) == (
        NAME,
        BASE,
        ["d"],
        {0: 17, 11: 4},
        2,
    )
    assert read.rows.tolist() == [2, 3]
    ours, theirs = written.to_tensors(), read.to_tensors()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_one_that_is_not_there_is_unknown(refreshes: Refreshes) -> None:
    with pytest.raises(UnknownVersionError, match=f"there is no version {NAME}"):
        refreshes.load(NAME, "", base().vocabulary)


def test_the_newest_few_and_what_is_announced_stay(refreshes: Refreshes) -> None:
    for number in range(4):
        refreshes.write(replace(refresh(), name=f"2026112{number}T000000Z-00"), base().vocabulary.extended(["d"]))
    refreshes.make_room(keep=2, announced="20261120T000000Z-00")
    assert refreshes.names() == ["20261120T000000Z-00", "20261122T000000Z-00", "20261123T000000Z-00"]


def _tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Refresh], bytes]:
    def changed(found: Refresh) -> bytes:
        tensors = found.to_tensors()
        change(tensors)
        return safetensors.torch.save(tensors)

    return changed


DAMAGE: dict[str, tuple[str, Callable[[Refresh], bytes]]] = {
    "rows that fall": ("shape", _tensors(lambda found: found.update(rows=torch.tensor([3, 2])))),
    "a row beyond the items": ("shape", _tensors(lambda found: found.update(rows=torch.tensor([2, 4])))),
    "a neighbour beyond the items": (
        "shape",
        _tensors(lambda found: found.update(successor_rows=torch.tensor([3, 0, 9], dtype=torch.int32))),
    ),
    "lengths of other rows": ("shape", _tensors(lambda found: found.update(successor_lengths=torch.tensor([3])))),
    "a tensor missing": ("shape", _tensors(lambda found: found.pop("predecessor_rows"))),
    "not a number": (
        "non-finite",
        _tensors(lambda found: found.update(successor_shares=torch.tensor([0.5, float("nan"), 1.0]))),
    ),
    "no safetensors": ("shape", lambda _: b"junk"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_faulty_writer_s_refresh_is_refused_by_name(name: str, tmp_path: Path) -> None:
    reason, damaged = DAMAGE[name]
    refreshes = Refreshes(str(tmp_path))
    refreshes.write(refresh(), base().vocabulary.extended(["d"]))
    sha256 = _rewrite(tmp_path / "refreshes" / NAME, damaged(refresh()))
    with pytest.raises(DamagedVersionError) as caught:
        refreshes.load(NAME, sha256, base().vocabulary)
    assert caught.value.reason == reason


def _rewrite(folder: Path, changes: bytes, **fields: Any) -> str:
    """Put other changes in the place of a refresh's, its manifest in step; returns the manifest's hash."""
    (folder / "changes.safetensors").write_bytes(changes)
    manifest = json.loads((folder / "manifest.json").read_bytes()) | fields
    manifest["files"]["changes.safetensors"] = {"sha256": hashlib.sha256(changes).hexdigest(), "bytes": len(changes)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"schema": 2}, "schema"),
        ({"version": "other"}, "manifest"),
        ({"base": 7}, "manifest"),
        ({"items": 5}, "vocabulary"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused_by_name(
    tmp_path: Path, fields: dict[str, Any], reason: str
) -> None:
    refreshes = Refreshes(str(tmp_path))
    refreshes.write(refresh(), base().vocabulary.extended(["d"]))
    folder = tmp_path / "refreshes" / NAME
    sha256 = _rewrite(folder, (folder / "changes.safetensors").read_bytes(), **fields)
    with pytest.raises(DamagedVersionError) as caught:
        refreshes.load(NAME, sha256, base().vocabulary)
    assert caught.value.reason == reason


def test_one_that_was_not_announced_so_or_goes_on_from_other_items_is_refused(refreshes: Refreshes) -> None:
    sha256 = refreshes.write(refresh(), base().vocabulary.extended(["d"]))
    with pytest.raises(DamagedVersionError, match="not the one that was announced"):
        refreshes.load(NAME, "00", base().vocabulary)
    with pytest.raises(DamagedVersionError, match="does not go on from the items"):
        refreshes.load(NAME, sha256, Vocabulary(["a", "b", "x"]))
    with pytest.raises(DamagedVersionError, match="does not go on from the items"):
        refreshes.load(NAME, sha256, Vocabulary(["a", "b", "d"]))

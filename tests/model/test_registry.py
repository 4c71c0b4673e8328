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

from model.clicks import Sessions
from model.companion import Companion, Mixing
from model.errors import DamagedVersionError, UnknownVersionError
from model.gru4rec import GRU4Rec, GRU4RecSettings
from model.registry import ModelVersion, Registry, new_version_name
from model.transitions import Transitions
from model.vocabulary import Vocabulary

SETTINGS = GRU4RecSettings(embedding_size=2, hidden_sizes=(2,))
VERSION = "20261123T211530Z-1a2b3c"
FILE_NAMES = ["weights.safetensors", "vocabulary.json", "training.safetensors", "manifest.json"]
COMPANION_FILES = ["transitions.safetensors", "counts.safetensors"]


def version_of(
    *item_ids: str, version: str = VERSION, parent: str | None = None, created_at_ms: int = 1
) -> ModelVersion:
    network = GRU4Rec.initialised(SETTINGS, len(item_ids), torch.Generator().manual_seed(1))
    return ModelVersion(
        version=version,
        parent=parent,
        network=network,
        vocabulary=Vocabulary(item_ids),
        optimizer_state={"accumulator.embedding": torch.full((len(item_ids), 2), 0.5)},
        training_settings={"epochs": 4, "loss": "cross-entropy"},
        trained_until={0: 17, 11: 4},
        metrics={"recall@20": 0.5},
        created_at_ms=created_at_ms,
    )


def with_companion(version: ModelVersion) -> ModelVersion:
    items = len(version.vocabulary)
    transitions = Transitions(items)
    offsets = np.array([0, 3, 5])
    clicked = np.arange(5) % items
    transitions.add(Sessions(items=clicked, offsets=offsets, start_ms=offsets[:-1], end_ms=offsets[:-1]))
    transitions.decay(0.9)
    companion = Companion(transitions.neighbours(), Mixing(forward=0.7))
    return replace(version, companion=companion, transitions=transitions)


@pytest.fixture(params=["local", "object store"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    return Registry(str(tmp_path / "registry") if request.param == "local" else f"memory://{tmp_path}/registry")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a version `VERSION` with items a, b, c, whose parent has a, b."""
    registry = Registry(str(tmp_path))
    registry.write(version_of("a", "b", version="parent"))
    registry.write(version_of("a", "b", "c", parent="parent"))
    return tmp_path / VERSION


def test_written_version_is_loaded_as_it_was(registry: Registry) -> None:
    written = version_of("a", "b", "é")
    registry.write(written)
    loaded = registry.load(VERSION, training=True)
    assert loaded.network.settings == SETTINGS
    assert loaded.network.parameters.keys() == written.network.parameters.keys()
    for name, tensor in written.network.parameters.items():
        assert torch.equal(loaded.network.parameters[name], tensor)
    assert torch.equal(loaded.optimizer_state["accumulator.embedding"], torch.full((3, 2), 0.5))
    assert loaded.vocabulary.item_ids == ["a", "b", "é"]
    names = ("version", "parent", "training_settings", "trained_until", "metrics", "created_at_ms")
    assert [getattr(loaded, name) for name in names] == [getattr(written, name) for name in names]


@pytest.mark.parametrize(
    "settings",
    [
        GRU4RecSettings(embedding_size=2, hidden_sizes=(2,), item_input="separate", activation="tanh"),
        GRU4RecSettings(embedding_size=2, hidden_sizes=(2,), item_input="one_hot", skip=False, reset_gate="after"),
    ],
    ids=["separate", "one-hot"],
)
def test_network_of_any_form_is_loaded_as_it_was(registry: Registry, settings: GRU4RecSettings) -> None:
    network = GRU4Rec.initialised(settings, 3, torch.Generator().manual_seed(1))
    registry.write(replace(version_of("a", "b", "c"), network=network))
    loaded = registry.load(VERSION).network
    assert loaded.settings == settings
    assert loaded.parameters.keys() == network.parameters.keys()
    assert all(torch.equal(loaded.parameters[name], tensor) for name, tensor in network.parameters.items())


def test_version_written_before_there_were_other_forms_is_loaded_as_it_was(folder: Path) -> None:
    model = {"embedding_size": 2, "hidden_sizes": [2], "feedforward_sizes": [], "skip": True, "item_bias": True}
    change_manifest(folder, model=model)
    loaded = Registry(str(folder.parent)).load(VERSION).network
    assert loaded.settings == SETTINGS
    expected = version_of("a", "b", "c").network
    assert all(torch.equal(loaded.parameters[name], tensor) for name, tensor in expected.parameters.items())


def test_optimizer_state_is_read_only_when_asked_for(folder: Path) -> None:
    (folder / "training.safetensors").unlink()
    assert Registry(str(folder.parent)).load(VERSION).optimizer_state == {}


def test_versions_are_listed_by_creation(registry: Registry) -> None:
    for name, created_at_ms in (("z", 1), ("a", 2), ("m", 3)):
        registry.write(version_of("a", version=name, created_at_ms=created_at_ms))
    assert registry.versions() == ["z", "a", "m"]


def test_version_with_a_damaged_manifest_is_still_listed(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")
    assert Registry(str(folder.parent)).versions() == [VERSION, "parent"]


def test_removed_version_is_unknown_and_the_others_are_whole(registry: Registry) -> None:
    for version in (VERSION, "other"):
        registry.write(version_of("a", version=version))
    registry.remove(VERSION)
    assert registry.versions() == ["other"]
    assert registry.load("other", training=True).version == "other"
    with pytest.raises(UnknownVersionError):
        registry.load(VERSION)


@pytest.mark.parametrize("name", ["absent", "../registry", ""])
def test_unknown_version_cannot_be_removed(registry: Registry, name: str) -> None:
    with pytest.raises(UnknownVersionError):
        registry.remove(name)


def test_what_was_left_half_written_for_a_day_is_swept(folder: Path) -> None:
    registry, left = Registry(str(folder.parent)), folder.parent / f".unfinished-{VERSION}-x"
    left.mkdir()
    (left / "weights.safetensors").write_bytes(b"")
    touched_ms = int(left.stat().st_mtime * 1000)
    registry.sweep(touched_ms + 23 * 3_600_000)
    assert left.exists()
    registry.sweep(touched_ms + 25 * 3_600_000)
    assert not left.exists()
    assert sorted(registry.versions()) == [VERSION, "parent"]


def test_empty_registry_lists_no_versions(registry: Registry) -> None:
    assert registry.versions() == []


def test_manifest_says_what_was_written(registry: Registry) -> None:
    registry.write(version_of("a", "b", version="parent"))
    manifest = registry.write(version_of("a", "b", "c", parent="parent"))
    assert registry.manifest(VERSION) == manifest
    assert (manifest.items, manifest.parent_items) == (3, 2)
    assert manifest.parent_vocabulary_sha256 == Vocabulary(["a", "b"]).sha256()
    assert manifest.shapes["embedding"] == [3, 2]
    assert manifest.model == SETTINGS.to_dict()
    assert sorted(manifest.files) == sorted(FILE_NAMES[:3])


def test_announced_hash_is_that_of_the_manifest_s_bytes(folder: Path) -> None:
    registry = Registry(str(folder.parent))
    expected = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert registry.manifest_sha256(VERSION) == expected
    assert registry.manifest(VERSION).sha256 == expected


def test_version_is_four_files_that_anyone_may_read(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILE_NAMES)
    assert folder.stat().st_mode & 0o777 == 0o755


def test_companion_and_its_counts_are_loaded_as_they_were(registry: Registry) -> None:
    written = with_companion(version_of("a", "b", "c"))
    assert written.companion is not None
    assert written.transitions is not None
    manifest = registry.write(written)
    assert sorted(manifest.files) == sorted(FILE_NAMES[:3] + COMPANION_FILES)
    loaded = registry.load(VERSION, training=True)
    assert loaded.companion is not None
    assert loaded.transitions is not None
    assert loaded.companion.mixing == written.companion.mixing
    for found, expected in (
        (loaded.companion.neighbours, written.companion.neighbours),
        (loaded.transitions, written.transitions),
    ):
        tensors = expected.to_tensors()
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in found.to_tensors().items())
    assert registry.load(VERSION).transitions is None, "counts are for training alone"


def test_counts_that_were_loaded_go_on_counting(registry: Registry) -> None:
    registry.write(with_companion(version_of("a", "b", "c")))
    transitions = registry.load(VERSION, training=True).transitions
    assert transitions is not None
    transitions.add(Sessions(np.array([2, 2]), np.array([0, 2]), np.array([0]), np.array([0])))
    first, second, counts = transitions.pairs()
    pairs = dict(zip(zip(first.tolist(), second.tolist(), strict=True), counts.tolist(), strict=True))
    assert pairs == pytest.approx({(0, 1): 1.8, (0, 2): 0.63, (1, 2): 0.9, (2, 2): 1.0})


def test_version_without_a_companion_has_no_files_of_one(folder: Path) -> None:
    assert "mixing" not in (folder / "manifest.json").read_text()
    assert Registry(str(folder.parent)).load(VERSION, training=True).companion is None


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Replace a file and its entry in the manifest, as a program gone wrong (not a disk) would."""
    (folder / name).write_bytes(data)
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    change_manifest(folder, files=json.loads((folder / "manifest.json").read_bytes())["files"] | {name: entry})


def change_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


def flip_byte(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def truncate(path: Path, byte_count: int = 1) -> None:
    path.write_bytes(path.read_bytes()[:-byte_count])


def change_weights(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], object], name: str = FILE_NAMES[0]
) -> None:
    tensors = safetensors.torch.load((folder / name).read_bytes())
    change(tensors)
    replace_file(folder, name, safetensors.torch.save(tensors))


def shrink(folder: Path) -> None:
    """A version that is whole in itself but has lost an item of its parent."""
    small = version_of("a", version="small")
    Registry(str(folder.parent)).write(small)
    manifest = json.loads((folder.parent / "small" / "manifest.json").read_bytes())
    for name in FILE_NAMES[:3]:
        (folder / name).write_bytes((folder.parent / "small" / name).read_bytes())
    change_manifest(folder, files=manifest["files"], shapes=manifest["shapes"], items=1)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        *[pytest.param(lambda f, n=n: (f / n).unlink(), "missing-file", id=f"{n} missing") for n in FILE_NAMES],
        *[pytest.param(lambda f, n=n: truncate(f / n), "size", id=f"{n} truncated") for n in FILE_NAMES[:3]],
        *[pytest.param(lambda f, n=n: flip_byte(f / n, -1), "hash", id=f"{n} flipped") for n in FILE_NAMES[:3]],
        (lambda f: flip_byte(f / "weights.safetensors", 0), "hash"),
        (lambda f: (f / "manifest.json").write_bytes(b""), "manifest"),
        (lambda f: (f / "manifest.json").write_bytes(b"\xff\x00garbage"), "manifest"),
        (lambda f: truncate(f / "manifest.json", 2), "manifest"),
        (lambda f: change_manifest(f, files={}), "manifest"),
        (lambda f: change_manifest(f, items="three"), "manifest"),
        (lambda f: change_manifest(f, version="another"), "manifest"),
        (lambda f: change_manifest(f, model={"embedding_size": 2}), "manifest"),
        (lambda f: change_manifest(f, model=SETTINGS.to_dict() | {"reset_gate": "sideways"}), "manifest"),
        (lambda f: change_manifest(f, model=SETTINGS.to_dict() | {"item_input": "separate"}), "shape"),
        (lambda f: change_manifest(f, schema=2), "schema"),
        (lambda f: (f / "manifest.json").write_text('{"schema": 2, "all": "new"}'), "schema"),
        (lambda f: change_weights(f, lambda t: t.update(embedding=torch.zeros(3, 4))), "shape"),
        (lambda f: change_weights(f, lambda t: t.update(embedding=torch.zeros(4, 2))), "shape"),
        (lambda f: change_weights(f, lambda t: t.update(item_bias=t["item_bias"].double())), "shape"),
        (lambda f: change_weights(f, lambda t: t.pop("item_bias")), "shape"),
        (lambda f: change_weights(f, lambda t: t.update(extra=torch.zeros(1))), "shape"),
        (lambda f: change_manifest(f, shapes={}), "shape"),
        (lambda f: replace_file(f, "weights.safetensors", b"not tensors"), "shape"),
        (lambda f: change_weights(f, lambda t: t["embedding"][1, 1].fill_(NAN)), "non-finite"),
        (lambda f: change_weights(f, lambda t: t["gru.0.bias"][5].fill_(-INF)), "non-finite"),
        (lambda f: change_weights(f, lambda t: t["accumulator.embedding"].fill_(NAN), FILE_NAMES[2]), "non-finite"),
        (lambda f: replace_file(f, "vocabulary.json", b'["a","b"]'), "vocabulary"),
        (lambda f: replace_file(f, "vocabulary.json", b'["b","a","c"]'), "vocabulary"),
        (lambda f: replace_file(f, "vocabulary.json", b'["a","b","b"]'), "vocabulary"),
        (lambda f: replace_file(f, "vocabulary.json", b'["a","b",3]'), "vocabulary"),
        (lambda f: change_manifest(f, parent_vocabulary_sha256="00"), "vocabulary"),
        (shrink, "vocabulary"),
    ],
)
def test_damaged_version_is_refused_with_its_reason(
    folder: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(folder)
    with pytest.raises(DamagedVersionError) as refused:
        Registry(str(folder.parent)).load(VERSION, training=True)
    assert refused.value.reason == reason
    assert refused.value.version == VERSION


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        *[pytest.param(lambda f, n=n: (f / n).unlink(), "missing-file", id=f"{n} missing") for n in COMPANION_FILES],
        *[pytest.param(lambda f, n=n: truncate(f / n), "size", id=f"{n} truncated") for n in COMPANION_FILES],
        *[pytest.param(lambda f, n=n: flip_byte(f / n, -1), "hash", id=f"{n} flipped") for n in COMPANION_FILES],
        (lambda f: change_manifest(f, mixing={"forward": 1}), "manifest"),
        (lambda f: change_manifest(f, mixing=Mixing().to_dict() | {"temper": -1}), "manifest"),
        (lambda f: change_manifest(f, mixing="strong"), "manifest"),
        (lambda f: change_weights(f, lambda t: t["successor_shares"].fill_(NAN), COMPANION_FILES[0]), "non-finite"),
        (lambda f: change_weights(f, lambda t: t["successor_rows"].fill_(7), COMPANION_FILES[0]), "shape"),
        (lambda f: change_weights(f, lambda t: t.pop("successor_rows"), COMPANION_FILES[0]), "shape"),
        (lambda f: change_weights(f, lambda t: t["clicks"].fill_(INF), COMPANION_FILES[1]), "non-finite"),
        (lambda f: change_weights(f, lambda t: t.update(clicks=t["clicks"].float()), COMPANION_FILES[1]), "shape"),
        (lambda f: change_weights(f, lambda t: t["pairs"].fill_(1), COMPANION_FILES[1]), "shape"),
        (lambda f: change_weights(f, lambda t: t.pop("counts"), COMPANION_FILES[1]), "shape"),
    ],
)
def test_damaged_companion_is_refused_with_its_reason(
    folder: Path, damage: Callable[[Path], object], reason: str
) -> None:
    Registry(str(folder.parent)).write(with_companion(version_of("a", "b", "c", version="mixed")))
    mixed = folder.parent / "mixed"
    damage(mixed)
    with pytest.raises(DamagedVersionError) as refused:
        Registry(str(folder.parent)).load("mixed", training=True)
    assert refused.value.reason == reason


def test_companion_of_other_items_is_never_written_nor_one_without_its_counts(registry: Registry) -> None:
    other, whole = with_companion(version_of("a", "b")), with_companion(version_of("a", "b", "c"))
    with pytest.raises(ValueError, match="3 items, but neighbours of 2 and counts of 2"):
        registry.write(replace(whole, companion=other.companion, transitions=other.transitions))
    with pytest.raises(ValueError, match="a companion is written with the counts"):
        registry.write(replace(whole, transitions=None))


@pytest.mark.parametrize("name", ["never-written", "", "../registry", "a/b", ".hidden", "x" * 129])
def test_unknown_version_is_refused(registry: Registry, name: str) -> None:
    registry.write(version_of("a"))
    for ask in (registry.load, registry.manifest, registry.manifest_sha256):
        with pytest.raises(UnknownVersionError):
            ask(name)


def test_version_is_written_once(registry: Registry) -> None:
    registry.write(version_of("a"))
    with pytest.raises(FileExistsError):
        registry.write(version_of("a", "b"))
    assert registry.manifest(VERSION).items == 1


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("where", ["network", "optimizer"])
def test_values_that_are_not_finite_are_never_written(registry: Registry, where: str, value: float) -> None:
    version = version_of("a")
    tensors = version.network.parameters if where == "network" else version.optimizer_state
    next(iter(tensors.values()))[0, 0] = value
    with pytest.raises(DamagedVersionError) as refused:
        registry.write(version)
    assert refused.value.reason == "non-finite"
    assert registry.versions() == []


def test_version_that_does_not_extend_its_parent_is_never_written(registry: Registry) -> None:
    registry.write(version_of("a", "b", version="parent"))
    for item_ids in (["a"], ["b", "a", "c"]):
        with pytest.raises(ValueError, match="does not extend that of its parent"):
            registry.write(version_of(*item_ids, parent="parent"))
    assert registry.versions() == ["parent"]


def test_version_of_an_absent_parent_is_never_written(registry: Registry) -> None:
    with pytest.raises(UnknownVersionError, match="parent"):
        registry.write(version_of("a", parent="parent"))


def test_network_and_vocabulary_of_different_sizes_are_never_written(registry: Registry) -> None:
    with pytest.raises(ValueError, match="the network has 1 items and the vocabulary 2"):
        registry.write(replace(version_of("a"), vocabulary=Vocabulary(["a", "b"])))


def test_name_that_would_leave_the_registry_is_never_written(registry: Registry) -> None:
    with pytest.raises(ValueError, match="not a version's name"):
        registry.write(version_of("a", version="../a"))


def test_names_of_versions_sort_by_time() -> None:
    assert new_version_name(1_795_468_530_999, "1a2b3c") == "20261123T211530Z-1a2b3c"
    times = [0, 999_999_999_000, 1_795_468_530_000, 1_795_468_531_000]
    names = [new_version_name(now_ms, "0") for now_ms in times]
    assert names == sorted(names)
    assert len(set(names)) == len(names)

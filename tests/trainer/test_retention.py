from pathlib import Path

import pytest
import torch

from model.announcements import Announcement
from model.errors import RegistryUnavailableError
from model.gru4rec import GRU4Rec, GRU4RecSettings
from model.registry import ModelVersion, Registry
from model.vocabulary import Vocabulary
from trainer.retention import FRESH_MS, Announced, Pruned, prune, superfluous

NOW_MS = 100 * FRESH_MS
ALL = [f"v{number}" for number in range(6)]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """The versions v0 to v5, each the child of the one before, all long ago."""
    registry = Registry(str(tmp_path / "registry"))
    for number, version in enumerate(ALL):
        write(registry, version, ALL[number - 1] if number else None, created_at_ms=number)
    return registry


def write(registry: Registry, version: str, parent: str | None, *, created_at_ms: int) -> None:
    settings = GRU4RecSettings(embedding_size=2, hidden_sizes=(2,))
    network = GRU4Rec.initialised(settings, 1, torch.Generator().manual_seed(0))
    registry.write(ModelVersion(version, parent, network, Vocabulary(["a"]), created_at_ms=created_at_ms))


def announced(
    serving: str, *, versions: list[str] = ALL, held: tuple[str, ...] = (), rejected: tuple[str, ...] = ()
) -> Announced:
    announcement = Announcement(serving, "uri", "00", "promote", {}, 0)
    return Announced(announcement, frozenset(versions), frozenset(held), frozenset(rejected))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (announced("v5"), ["v0", "v1", "v2", "v3"]),
        (announced("v2"), ["v0", "v3"]),
        (announced("v0"), ["v1", "v2", "v3"]),
        (announced("v5", held=("v1",)), ["v0", "v2", "v3"]),
        (announced("v3", rejected=("v4", "v5")), ["v0", "v1"]),
        (announced("v5", rejected=("v2", "v3")), ["v0", "v1", "v2", "v3"]),
        (announced("elsewhere"), ["v0", "v1", "v2", "v3"]),
        (Announced(), ["v0", "v1", "v2", "v3"]),
    ],
    ids=[
        "newest serves",
        "older serves",
        "parentless serves",
        "pinned",
        "newest are rejected",
        "older are rejected",
        "serving is elsewhere",
        "nothing serves",
    ],
)
def test_kept_are_the_newest_two_what_serves_its_parent_and_what_is_held(
    registry: Registry, said: Announced, expected: list[str]
) -> None:
    assert superfluous(registry, said, keep=2, now_ms=NOW_MS) == expected


def test_fresh_versions_that_were_not_announced_yet_are_kept(registry: Registry) -> None:
    for number in range(3):
        write(registry, f"fresh-{number}", "v5", created_at_ms=NOW_MS - number)
    said = announced("fresh-0", versions=[*ALL, "fresh-0", "fresh-1"])
    found = superfluous(registry, said, keep=1, now_ms=NOW_MS)
    assert "fresh-2" not in found
    assert "fresh-1" in found, "it was announced, and another serves"
    assert "fresh-2" in superfluous(registry, said, keep=1, now_ms=NOW_MS + FRESH_MS)


def test_more_is_never_removed_than_there_is(registry: Registry) -> None:
    assert superfluous(registry, announced("v5"), keep=6, now_ms=NOW_MS) == []
    assert superfluous(registry, announced("v5"), keep=100, now_ms=NOW_MS) == []


def test_a_version_whose_manifest_cannot_be_read_is_kept_and_does_not_count(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "registry" / "v0" / "manifest.json").write_text('{"schema": 99}')
    assert superfluous(registry, announced("v5"), keep=4, now_ms=NOW_MS) == ["v1"]


def test_pruned_versions_are_gone_and_the_others_load(registry: Registry) -> None:
    assert prune(registry, ["v0", "v1", "gone already"], now_ms=NOW_MS) == Pruned(["v0", "v1", "gone already"], [])
    assert registry.versions() == ALL[2:]
    for version in registry.versions():
        assert registry.load(version, training=True).version == version


def test_a_version_that_cannot_be_removed_is_named_and_the_others_go(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = Registry.remove

    def remove(registry: Registry, version: str) -> None:
        if version == "v0":
            raise RegistryUnavailableError("read-only")
        really(registry, version)

    monkeypatch.setattr(Registry, "remove", remove)
    pruned = prune(registry, ["v0", "v1"], now_ms=NOW_MS)
    assert pruned == Pruned(["v1"], ["version v0 was not removed: read-only"])
    assert registry.versions() == ["v0", *ALL[2:]]


@pytest.mark.parametrize("folder", ["", "refreshes"])
def test_what_a_killed_writer_left_is_swept_too(registry: Registry, tmp_path: Path, folder: str) -> None:
    left = tmp_path / "registry" / folder / ".unfinished-v9-x"
    left.mkdir(parents=True)
    prune(registry, [], now_ms=int(left.stat().st_mtime * 1000) + 48 * FRESH_MS)
    assert not left.exists()

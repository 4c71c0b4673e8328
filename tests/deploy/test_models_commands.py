"""`nextclick models`: a broker, and a registry of two versions."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import Result
from confluent_kafka import Producer

from model.announcements import SERVING_KEY, Announcement
from model.gru4rec import GRU4Rec, GRU4RecSettings
from model.registry import ModelVersion, Registry
from model.vocabulary import Vocabulary
from tests.brokers import read_records
from tests.deploy.command_line import last_json, nextclick
from tests.deploy.conftest import Site


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """A registry with the versions v1 and its child v2."""
    settings = GRU4RecSettings(embedding_size=4, hidden_sizes=(4,))
    written = Registry(str(tmp_path / "registry"))
    for number, (version, parent, items) in enumerate((("v1", None, ["a", "b"]), ("v2", "v1", ["a", "b", "c"]))):
        network = GRU4Rec.initialised(settings, len(items), torch.Generator().manual_seed(number))
        metrics = {"recall@20": 0.25 * (number + 1), "loss": 1.0}
        made = ModelVersion(version, parent, network, Vocabulary(items), metrics=metrics, created_at_ms=1_000 + number)
        written.write(made)
    return tmp_path / "registry"


def call(site: Site, registry: Path, *arguments: str) -> Result:
    return nextclick("models", *arguments, **site.settings, REGISTRY=registry)


def models(site: Site, registry: Path, *arguments: str) -> dict[str, object]:
    result = call(site, registry, *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return last_json(result.stdout)


def test_a_promoted_version_is_announced_and_listed_as_serving(site: Site, registry: Path) -> None:
    before = models(site, registry, "list")
    promoted = models(site, registry, "promote", "v2")
    after = models(site, registry, "list")
    by_version, serving = read_records(site.bootstrap, site.topic, 2)

    assert (before["serving"], after["serving"]) == (None, "v2")
    assert promoted == {"serving": "v2", "action": "promote"}
    assert (by_version.key(), serving.key()) == (b"v2", SERVING_KEY)
    announced = Announcement.decode(serving.value() or b"")
    assert announced.sha256 == Registry(str(registry)).manifest_sha256("v2")
    assert announced.metrics == {"recall@20": 0.5, "loss": 1.0}


def test_a_rollback_goes_to_the_parent_of_what_serves_or_to_the_version_named(site: Site, registry: Path) -> None:
    models(site, registry, "promote", "v2")

    assert models(site, registry, "rollback") == {"serving": "v1", "action": "rollback"}
    assert models(site, registry, "rollback", "v2") == {"serving": "v2", "action": "rollback"}
    assert models(site, registry, "list")["serving"] == "v2"


def test_a_rollback_without_anywhere_to_go_says_why(site: Site, registry: Path) -> None:
    unserved = call(site, registry, "rollback")
    models(site, registry, "promote", "v1")
    orphan = call(site, registry, "rollback")

    assert (unserved.exit_code, orphan.exit_code) == (1, 1)
    assert "no version serves yet" in unserved.stderr
    assert "v1 serves and has no parent to roll back to" in orphan.stderr
    assert "`nextclick models list`" in orphan.stderr


def test_the_list_fits_eighty_columns_and_marks_what_serves(site: Site, registry: Path) -> None:
    models(site, registry, "promote", "v1")
    result = call(site, registry, "list")
    lines = result.stdout.splitlines()

    assert lines[0] == f"versions in {registry}"
    assert max(map(len, lines[1:])) <= 80
    assert [line.split() for line in lines[2:4]] == [["●", "v1", "2", "0.2500"], ["v2", "…v1", "3", "0.5000"]]
    assert lines[-1] == "● serves: v1"


def reject(site: Site, version: str) -> None:
    """Say what the trainer says of a version that fails on live clicks."""
    rejection = Announcement(version, "uri", "00", "reject", {"recall@20_difference": -0.1}, 2_000)
    producer = Producer({"bootstrap.servers": site.bootstrap, "log_level": 0})
    producer.produce(site.topic, rejection.encode(), version, partition=0)
    assert producer.flush(10) == 0


def test_a_rejected_version_is_listed_as_such_and_serves_again_only_by_force(site: Site, registry: Path) -> None:
    models(site, registry, "promote", "v1")
    reject(site, "v2")
    refused = [call(site, registry, command, "v2") for command in ("promote", "rollback")]
    listed, lines = models(site, registry, "list"), call(site, registry, "list").stdout.splitlines()

    assert [result.exit_code for result in refused] == [1, 1]
    assert "v2 was worse than its parent on live clicks; --force makes it serve again" in refused[0].stderr
    assert (listed["serving"], listed["rejected"]) == ("v1", ["v2"])
    assert [line.split()[-1] == "rejected" for line in lines[2:4]] == [False, True]
    assert models(site, registry, "promote", "v2", "--force") == {"serving": "v2", "action": "promote"}
    assert models(site, registry, "list")["rejected"] == [], "the last word about it is another one"


def test_what_an_operator_announces_says_so(site: Site, registry: Path) -> None:
    models(site, registry, "promote", "v2")
    models(site, registry, "rollback")
    said = [Announcement.decode(record.value() or b"") for record in read_records(site.bootstrap, site.topic, 4)]
    assert [announcement.by_operator for announcement in said] == [True] * 4


def test_a_damaged_version_does_not_hide_the_others_and_cannot_be_promoted(site: Site, registry: Path) -> None:
    (registry / "v2" / "weights.safetensors").write_bytes(b"")
    (registry / "v3").mkdir()
    (registry / "v3" / "manifest.json").write_text("{}")
    listed = call(site, registry, "list")
    promoted = call(site, registry, "promote", "v2")

    assert listed.exit_code == 0
    assert [line for line in listed.stdout.splitlines() if "v3" in line and "damaged" in line]
    assert "v1" in listed.stdout
    assert promoted.exit_code == 1
    assert "version v2 is damaged (size)" in promoted.stderr
    assert models(site, registry, "list")["serving"] is None


def test_a_serving_version_that_the_registry_lacks_is_noted(site: Site, registry: Path, tmp_path: Path) -> None:
    models(site, registry, "promote", "v1")
    result = call(site, tmp_path / "other", "list")

    assert result.exit_code == 0
    assert "other holds no version yet" in result.stdout
    assert "v1 serves, and is not in" in result.stderr


def test_pruning_removes_what_the_dry_run_named_and_keeps_what_serves(site: Site, registry: Path) -> None:
    for version in ("v1", "v2"):
        models(site, registry, "promote", version)
    shutil.copytree(registry / "v2", registry / "v3")
    manifest = (registry / "v3" / "manifest.json").read_text()
    (registry / "v3" / "manifest.json").write_text(
        manifest.replace('"version": "v2"', '"version": "v3"').replace("1001", "1002")
    )
    models(site, registry, "promote", "v3")

    foreseen = models(site, registry, "prune", "--keep", "1", "--dry-run")
    untouched = sorted(folder.name for folder in registry.iterdir())
    said = call(site, registry, "prune", "--keep", "1")

    assert foreseen == {"removed": ["v2"], "dry_run": True}
    assert untouched == ["v1", "v2", "v3"]
    assert said.exit_code == 0
    assert said.stdout.splitlines() == ["v2", f"1 versions removed from {registry}"]
    assert sorted(folder.name for folder in registry.iterdir()) == ["v1", "v3"]
    assert models(site, registry, "list")["serving"] == "v3"
    assert models(site, registry, "rollback") == {"serving": "v1", "action": "rollback"}


def test_pruning_keeps_as_many_as_the_setting_says(site: Site, registry: Path) -> None:
    models(site, registry, "promote", "v2")
    result = nextclick("models", "prune", "--json", **site.settings, REGISTRY=registry, TRAINER__VERSIONS_KEPT="1")
    assert last_json(result.stdout) == {"removed": [], "dry_run": False}, "the parent is kept"
    assert call(site, registry, "prune", "--keep", "0").exit_code == 2


def test_a_versions_manifest_is_shown_once_every_file_is_verified(registry: Path) -> None:
    shown = nextclick("models", "show", "v2", REGISTRY=registry)
    as_json = nextclick("models", "show", "v2", "--json", REGISTRY=registry)
    (registry / "v2" / "training.safetensors").write_bytes(b"")
    damaged = nextclick("models", "show", "v2", REGISTRY=registry)

    assert json.loads(shown.stdout) == last_json(as_json.stdout)
    assert (json.loads(shown.stdout)["parent"], json.loads(shown.stdout)["items"]) == ("v1", 3)
    assert damaged.exit_code == 1
    assert "version v2 is damaged (size)" in damaged.stderr


def test_a_pin_holds_what_serves_or_the_version_named_until_it_is_taken_off(site: Site, registry: Path) -> None:
    nothing = call(site, registry, "pin")
    assert nothing.exit_code == 1
    assert "no version serves yet, so there is none to pin" in nothing.stderr
    models(site, registry, "promote", "v2")
    assert models(site, registry, "pin") == {"serving": "v2", "action": "pin"}
    assert models(site, registry, "pin", "v1") == {"serving": "v1", "action": "pin"}
    assert models(site, registry, "unpin") == {"serving": "v1", "action": "promote"}
    again = call(site, registry, "unpin")
    assert again.exit_code == 1
    assert "v1 serves and is not pinned: there is nothing to unpin" in again.stderr


def test_the_report_shows_each_gate_and_draws_it(registry: Path, tmp_path: Path) -> None:
    written = Registry(str(registry))
    version = replace(
        written.load("v2"),
        version="v3",
        parent="v2",
        trained_until={0: 70, 1: 30},
        metrics={"cases": 9.0, "recall@20": 0.6, "incumbent_recall@20": 0.5, "mrr@20": 0.3, "incumbent_mrr@20": 0.2},
        created_at_ms=1_790_000_000_000,
    )
    written.write(version)
    result = nextclick("models", "report", "--json", "--plot", str(tmp_path / "rounds.png"), REGISTRY=registry)
    assert result.exit_code == 0, result.stderr
    rows = last_json(result.stdout)["versions"]
    assert isinstance(rows, list)
    assert [row["version"] for row in rows] == ["v1", "v2", "v3"]
    assert rows[2] == {
        "version": "v3",
        "parent": "v2",
        "created_at": "2026-09-21T14:13:20+00:00",
        "items": 3,
        "clicks": 100,
        "cases": 9.0,
        "recall@20": 0.6,
        "incumbent_recall@20": 0.5,
        "mrr@20": 0.3,
        "incumbent_mrr@20": 0.2,
    }
    assert (tmp_path / "rounds.png").read_bytes().startswith(b"\x89PNG")
    assert "0.6000" in nextclick("models", "report", REGISTRY=registry).stdout

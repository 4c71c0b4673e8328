import hashlib

from model.manifest import FileEntry, Manifest, read_manifest

VERSION = "20261123T211530Z-1a2b3c"
# Manifests outlive releases: these bytes must stay readable, and are changed with a new schema and a reader for both.
GOLDEN = """\
{
  "schema": 1,
  "version": "20261123T211530Z-1a2b3c",
  "parent": "20261122T211530Z-000000",
  "parent_items": 2,
  "parent_vocabulary_sha256": "pp",
  "files": {
    "weights.safetensors": {
      "sha256": "ww",
      "bytes": 10
    },
    "vocabulary.json": {
      "sha256": "vv",
      "bytes": 20
    }
  },
  "model": {
    "embedding_size": 2
  },
  "training": {
    "epochs": 4
  },
  "shapes": {
    "embedding": [
      3,
      2
    ]
  },
  "items": 3,
  "trained_until": {
    "0": 17,
    "1": 4
  },
  "metrics": {
    "recall@20": 0.5
  },
  "created_at_ms": 1795468530000
}
"""
GOLDEN_MANIFEST = Manifest(
    schema=1,
    version=VERSION,
    parent="20261122T211530Z-000000",
    parent_items=2,
    parent_vocabulary_sha256="pp",
    files={"weights.safetensors": FileEntry("ww", 10), "vocabulary.json": FileEntry("vv", 20)},
    model={"embedding_size": 2},
    training={"epochs": 4},
    shapes={"embedding": [3, 2]},
    items=3,
    trained_until={0: 17, 1: 4},
    metrics={"recall@20": 0.5},
    created_at_ms=1_795_468_530_000,
)


def test_manifest_is_written_as_the_golden_bytes() -> None:
    assert GOLDEN_MANIFEST.encode().decode() == GOLDEN


def test_golden_bytes_read_as_the_manifest() -> None:
    assert read_manifest(VERSION, GOLDEN.encode()) == GOLDEN_MANIFEST


def test_field_of_a_later_release_is_ignored() -> None:
    assert read_manifest(VERSION, GOLDEN.replace("{", '{"later": [1],', 1).encode()) == GOLDEN_MANIFEST


def test_hash_of_a_manifest_is_that_of_its_bytes() -> None:
    assert GOLDEN_MANIFEST.sha256 == hashlib.sha256(GOLDEN.encode()).hexdigest()

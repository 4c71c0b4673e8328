import hashlib
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.vocabulary import Vocabulary, fingerprint

id_lists = st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True, max_size=12)


@given(item_ids=id_lists)
def test_every_id_has_the_row_of_its_place(item_ids: list[str]) -> None:
    vocabulary = Vocabulary(item_ids)
    assert [vocabulary.row(item_id) for item_id in item_ids] == list(range(len(item_ids)))
    assert vocabulary.rows(item_ids).tolist() == list(range(len(item_ids)))
    assert len(vocabulary) == len(item_ids)


def test_unknown_ids_have_row_minus_one() -> None:
    vocabulary = Vocabulary(["a", "b"])
    rows = vocabulary.rows(["b", "c", "a"])
    assert rows.tolist() == [1, -1, 0]
    assert rows.dtype == np.int64
    assert vocabulary.row("c") == -1


@given(item_ids=id_lists, new_ids=st.lists(st.text(max_size=2), max_size=12))
def test_extending_appends_unknown_ids_in_order_and_moves_no_row(item_ids: list[str], new_ids: list[str]) -> None:
    vocabulary = Vocabulary(item_ids)
    extended = vocabulary.extended(new_ids)
    assert extended.item_ids == list(dict.fromkeys([*item_ids, *new_ids]))
    assert extended.is_extension_of(vocabulary)
    assert vocabulary.item_ids == item_ids


def test_shrunk_or_reordered_vocabulary_is_no_extension() -> None:
    vocabulary = Vocabulary(["a", "b"])
    assert vocabulary.is_extension_of(vocabulary)
    assert not Vocabulary(["a"]).is_extension_of(vocabulary)
    assert not Vocabulary(["b", "a", "c"]).is_extension_of(vocabulary)


def test_repeated_id_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'b' occurs more than once"):
        Vocabulary(["a", "b", "c", "b"])


@given(item_ids=id_lists)
def test_written_vocabulary_reads_back(item_ids: list[str]) -> None:
    assert Vocabulary.from_bytes(Vocabulary(item_ids).to_bytes()).item_ids == item_ids


def test_vocabulary_is_written_as_a_json_array() -> None:
    assert Vocabulary(["17", 'q"', "é"]).to_bytes() == '["17","q\\"","é"]'.encode()


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'["a","a"]', b'["a"', b"\xff"])
def test_bytes_that_are_no_vocabulary_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"expected a JSON array|more than once"):
        Vocabulary.from_bytes(data)


def test_hash_of_the_first_ids_is_that_of_the_vocabulary_they_extend() -> None:
    vocabulary = Vocabulary(["a", "b"])
    assert vocabulary.extended(["c"]).sha256(2) == vocabulary.sha256()
    assert vocabulary.sha256() == hashlib.sha256(b'["a","b"]').hexdigest()
    assert vocabulary.extended(["c"]).sha256() != vocabulary.sha256()


def test_fingerprints_are_crc32_of_the_utf8_ids() -> None:
    fingerprints = Vocabulary(["a", "é"]).fingerprints
    assert fingerprints.dtype == np.uint32
    assert fingerprints.tolist() == [zlib.crc32(b"a"), zlib.crc32("é".encode())]
    assert fingerprint("a") == 0xE8B7BE43


def test_fingerprints_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        Vocabulary(["a"]).fingerprints[0] = 1

import gc
from pathlib import Path

import faust
import pytest
from faust.types import TP

from stream.app import TABLE, changelog_topic
from stream.faust_seams import offset_key, partition_db
from stream.session import DamagedSessionError, decode_session, encode_session
from stream.state_table import StateTable
from tests.stream.builders import plain, session


def test_sessions_are_read_back_by_partition_and_key_in_the_order_asked(table: StateTable) -> None:
    written = {(0, b"a"): session(1), (1, b"a"): session(2, partition=1), (0, b"b"): session(3)}
    table.write(written)
    loaded = table.load([(0, b"b"), (1, b"b"), (1, b"a"), (0, b"a"), (0, b"c")])
    assert [found and found.offset for found in loaded] == [3, None, 2, 1, None]
    assert loaded[0] is not None
    assert plain(loaded[0]) == plain(session(3))


def test_its_databases_are_tuned_for_what_they_hold(table: StateTable, faust_table: faust.Table) -> None:
    table.write({(0, b"a"): session(1)})
    folder = Path(partition_db(faust_table, 0).path())
    said = max(folder.glob("OPTIONS-*")).read_text()
    assert "compression=kNoCompression" in said
    assert "level0_file_num_compaction_trigger=8" in said
    assert "write_buffer_size=16777216" in said


def test_loading_nothing_gives_nothing(table: StateTable) -> None:
    assert table.load([]) == []


def test_a_write_returns_the_stored_records_for_the_changelog(table: StateTable, faust_table: faust.Table) -> None:
    encoded = table.write({(0, b"a"): session(1), (1, b"a"): session(2, partition=1)})
    assert encoded == {0: {b"a": encode_session(session(1))}, 1: {b"a": encode_session(session(2, partition=1))}}
    assert partition_db(faust_table, 0).get(b"a") == encoded[0][b"a"]


def test_records_in_float16_and_float32_are_read_whichever_is_written_now(
    table: StateTable, faust_table: faust.Table
) -> None:
    other = StateTable(faust_table, "float16")
    table.write({(0, b"a"): session(1)})
    assert other.write({(0, b"b"): session(2)}) == {0: {b"b": encode_session(session(2), "float16")}}
    for reader in (table, other):
        assert [found and plain(found) for found in reader.load([(0, b"a"), (0, b"b")])] == [
            plain(session(1)),
            plain(session(2)),
        ]


def test_the_last_write_counts(table: StateTable) -> None:
    table.write({(0, b"a"): session(1)})
    table.write({(0, b"a"): session(2)})
    (found,) = table.load([(0, b"a")])
    assert found is not None
    assert found.offset == 2


def test_a_damaged_record_is_an_error(table: StateTable, faust_table: faust.Table) -> None:
    partition_db(faust_table, 0).put(b"a", b"\x09 not a record")
    with pytest.raises(DamagedSessionError):
        table.load([(0, b"a")])


def test_deleted_sessions_are_gone_and_others_stay(table: StateTable) -> None:
    table.write({(0, key): session() for key in (b"a", b"b", b"c")})
    table.delete(0, [b"a", b"c", b"never there"])
    assert [found is not None for found in table.load([(0, b"a"), (0, b"b"), (0, b"c")])] == [False, True, False]


def test_a_scan_goes_through_one_partition_in_key_order(table: StateTable) -> None:
    keys = [b"\xc3\xbc", b"b", b"a", b"__zzz"]
    table.write({(0, key): session(offset) for offset, key in enumerate(keys)} | {(1, b"other"): session(9)})
    found = list(table.scan(0, b"", 100))
    assert [key for key, _ in found] == sorted(keys)
    assert decode_session(dict(found)[b"b"]).offset == 1


@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_slices_of_a_scan_make_up_the_whole(table: StateTable, most: int) -> None:
    keys = [b"k%d" % place for place in range(5)] + [b"k", b"k\0"]
    table.write({(0, key): session() for key in keys})
    found: list[bytes] = []
    while part := [key for key, _ in table.scan(0, found[-1] if found else b"", most)]:
        assert len(part) <= most
        found += part
    assert found == sorted(keys)


def test_a_scan_leaves_out_faust_s_own_record(table: StateTable, faust_table: faust.Table) -> None:
    table.write({(0, key): session() for key in (b"__faust", b"a")})
    table.set_persisted_offset(0, 41)
    assert [key for key, _ in table.scan(0, b"", 100)] == [b"__faust", b"a"]
    assert partition_db(faust_table, 0).get(offset_key(faust_table)) == b"41"


def test_an_exhausted_scan_lets_the_database_be_opened_again(table: StateTable, faust_table: faust.Table) -> None:
    table.write({(0, b"a"): session()})
    for most in (1, 100):
        list(table.scan(0, b"", most))
    faust_table.data._dbs.clear()
    gc.collect()
    # A database that something still holds cannot be opened: its lock is taken.
    assert table.load([(0, b"a")])[0] is not None


def test_recovery_starts_after_the_persisted_offset(table: StateTable, faust_table: faust.Table) -> None:
    changelog = changelog_topic("nextclick")
    assert faust_table.data.persisted_offset(TP(changelog, 1)) is None
    table.set_persisted_offset(1, 41)
    assert faust_table.data.persisted_offset(TP(changelog, 1)) == 41
    assert faust_table.data.persisted_offset(TP(changelog, 0)) is None


def test_the_changelog_has_the_name_that_faust_gives_it(faust_table: faust.Table) -> None:
    assert faust_table.name == TABLE
    assert changelog_topic("nextclick") == faust_table.changelog_topic.get_topic_name()
    assert changelog_topic("nextclick") == "nextclick-sessions-changelog"


def test_sessions_survive_closing_the_database(table: StateTable, faust_table: faust.Table) -> None:
    table.write({(0, b"a"): session(7)})
    faust_table.data._dbs.clear()
    gc.collect()
    (found,) = table.load([(0, b"a")])
    assert found is not None
    assert found.offset == 7


def test_restored_records_replace_and_delete_older_ones_and_recovery_goes_on_behind_them(
    table: StateTable, faust_table: faust.Table
) -> None:
    old, new = encode_session(session(1)), encode_session(session(2))
    table.restore(1, {b"s": old, b"gone": old}, 3)
    table.restore(1, {b"s": new, b"gone": None}, 7)
    assert list(table.scan(1, b"", 10)) == [(b"s", new)]
    changelog = faust_table.changelog_topic.get_topic_name()
    assert faust_table.data.persisted_offset(TP(changelog, 1)) == 7

import os
import time
from pathlib import Path

import pytest
import rocksdict

from deploy.bench.compactions import compaction_s


def test_compactions_are_found_in_the_log_of_a_database_and_only_in_their_own_time(tmp_path: Path) -> None:
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    database = rocksdict.Rdict(str(tmp_path / "worker" / "0.db"), options)
    begin_s = time.time()
    for _ in range(4):
        for _ in range(1_000):
            database[os.urandom(8)] = os.urandom(200)
        database.flush()
    database.compact_range(None, None)
    end_s = time.time()
    database.close()

    whole_s = compaction_s(tmp_path, begin_s, end_s)
    assert 0 < whole_s < 60
    middle_s = (begin_s + end_s) / 2
    parts_s = compaction_s(tmp_path, begin_s, middle_s) + compaction_s(tmp_path, middle_s, end_s)
    assert parts_s == pytest.approx(whole_s)
    assert compaction_s(tmp_path, begin_s - 10, begin_s) == 0
    assert compaction_s(tmp_path, end_s, end_s + 10) == 0


def test_without_a_database_there_are_none(tmp_path: Path) -> None:
    assert compaction_s(tmp_path, 0, time.time()) == 0

"""The sessions in RocksDB, one database per partition, read and written a micro-batch at a time."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import faust
import rocksdict

from stream import faust_seams
from stream.session import Session, StateDtype, decode_session, encode_session

# One database per partition, and Faust's defaults would let each take 2 GiB of cache and 192 MiB of memtables.
ROCKSDB_OPTIONS = {
    "driver": "rocksdict",
    "write_buffer_size": 16 << 20,
    "max_write_buffer_number": 2,
    "block_cache_size": 32 << 20,
    "bloom_filter_size": 10,
}
# Of the newest, smallest files; twice RocksDB's default halves how often the level below is written anew.
_FILES_BEFORE_COMPACTION = 8

EncodedSessions = dict[int, dict[bytes, bytes]]


class StateTable:
    """Session records by partition and session id.

    Args:
        table: The Faust table that recovery restores and rebalances move.
        state_dtype: Of the hidden vectors in records that are written; any is read.
    """

    def __init__(self, table: faust.Table, state_dtype: StateDtype = "float32") -> None:
        self._table = table
        self._state_dtype = state_dtype
        faust_seams.tune_databases(table, _tune)
        # Faust's own record in every partition.
        self.offset_key = faust_seams.offset_key(table)

    def load(self, keys: Sequence[tuple[int, bytes]]) -> list[Session | None]:
        """Return the sessions of the given (partition, key) pairs; None where there is no record.

        Raises:
            DamagedSessionError: A record cannot be read.
        """
        places: dict[int, list[int]] = defaultdict(list)
        for place, (partition, _) in enumerate(keys):
            places[partition].append(place)
        sessions: list[Session | None] = [None] * len(keys)
        for partition, wanted in places.items():
            records = faust_seams.partition_db(self._table, partition).get([keys[place][1] for place in wanted])
            for place, record in zip(wanted, records, strict=True):
                sessions[place] = None if record is None else decode_session(record)
        return sessions

    def write(self, sessions: Mapping[tuple[int, bytes], Session]) -> EncodedSessions:
        """Store the sessions, one atomic write per partition, and return their records for the changelog."""
        encoded: EncodedSessions = defaultdict(dict)
        for (partition, key), session in sessions.items():
            encoded[partition][key] = encode_session(session, self._state_dtype)
        for partition, records in encoded.items():
            batch = rocksdict.WriteBatch(raw_mode=True)
            for key, record in records.items():
                batch.put(key, record)
            faust_seams.partition_db(self._table, partition).write(batch)
        return encoded

    def restore(self, partition: int, newest: Mapping[bytes, bytes | None], offset: int) -> None:
        """Apply a stretch of the changelog, and note its last offset, in one atomic write.

        Args:
            partition: Theirs.
            newest: The last value of each key in it; None deletes.
            offset: Its last.
        """
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, record in newest.items():
            if record is None:
                batch.delete(key)
            else:
                batch.put(key, record)
        batch.put(self.offset_key, str(offset).encode())
        faust_seams.partition_db(self._table, partition).write(batch)

    def delete(self, partition: int, keys: Sequence[bytes]) -> None:
        """Remove records, in one atomic write."""
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key in keys:
            batch.delete(key)
        faust_seams.partition_db(self._table, partition).write(batch)

    def scan(self, partition: int, after: bytes, most: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield at most `most` records of a partition in key order, from the first key beyond `after`.

        Exhaust it or drop it at once: a live iterator keeps the database from being handed to another worker.
        """
        cursor = faust_seams.partition_db(self._table, partition).iter()
        cursor.seek(after + b"\0" if after else b"\0")
        for _ in range(most):
            if not cursor.valid():
                return
            key = cursor.key()
            if key != self.offset_key:
                yield key, cursor.value()
            cursor.next()

    def set_persisted_offset(self, partition: int, offset: int) -> None:
        """Say that the store holds every changelog record of the partition up to `offset`."""
        faust_seams.set_persisted_offset(self._table, partition, offset)


def _tune(options: rocksdict.Options) -> None:
    options.set_compression_type(rocksdict.DBCompressionType.none())  # hidden vectors do not become smaller
    options.set_level_zero_file_num_compaction_trigger(_FILES_BEFORE_COMPACTION)

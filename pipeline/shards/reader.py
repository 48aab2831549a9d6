"""Read records of shards: Arrow IPC files, mapped into memory and read without a copy.

FORMAT.md specifies the files; writer.py writes them.
"""

import ctypes
import json
import mmap
import os
from bisect import bisect_right
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Int64, UInt8

from ..arrow import plain
from ..config import ShardConfig
from ..errors import DataError, printable
from ..imaging.codec import decode_record
from ..storage.uri import RemotePath, present
from .cache import ShardCache
from .manifest import Manifest
from .mapped import MADVISE, Block, Located, mapped
from .writer import ROWS_A_BATCH, schema

SEARCH = 1000  # limit of damaged records in a row that are skipped; more are not an accident
REMOTE_BLOCKS = 8  # record batches kept in memory if a store has no cache: about 10 MB each
MADVISE.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Records:
    """The records of one split, by number: 0 is the first row of the first shard.

    Shards are opened on first use: opening takes no time, however many records there are, and no
    memory is used per record.
    """

    def __init__(self, manifest: Manifest, split: str, only: str | None = None, cache: ShardCache | None = None) -> None:
        """Check that every shard of `split` (or only the shard `only`) exists and is complete.

        Raise DataError, which names the shard, if one is not. Remote shards are read through `cache`, if one is given.
        If they all fit into the cache, all are held; otherwise, the shards held have at most half of its size.
        """
        self.manifest = manifest
        self.shards = tuple(shard for shard in manifest.split(split).shards if only in (None, shard.file))
        ends = np.cumsum([shard.rows for shard in self.shards]).tolist()
        self._starts = [0, *ends[:-1]]
        self._first = np.array(self._starts, np.int64)  # `_starts` as an array, for searches
        self._count = ends[-1] if ends else 0
        self._readers: dict[int, pa.RecordBatchFileReader] = {}
        self._blocks: dict[tuple[int, int], Block] = {}
        self._maps: dict[int, pa.Buffer] = {}  # memory maps of whole local files
        self._touched: set[int] = set()  # shards used since the last `unmap`
        self._cache = cache if isinstance(manifest.directory, RemotePath) else None
        if self._cache is not None:
            fits = sum(shard.bytes for shard in self.shards) <= self._cache.limit
            self._holdable = self._cache.limit if fits else self._cache.limit // 2
        files = present(manifest.directory)
        for shard in self.shards:
            path, found = manifest.directory / shard.file, files.get(shard.file)
            if found != shard.bytes:
                state = "is missing" if found is None else f"has {found} bytes instead of {shard.bytes}"
                raise DataError(f"{path} {state}; restore it, or make it again with alexprep repair")

    def __len__(self) -> int:
        """Return the number of records."""
        return self._count

    def image(self, record: int) -> UInt8[np.ndarray, "..."]:
        """Return JPEG bytes uint8[n] or pixels uint8[s,s,3]: a read-only view into the file."""
        block, row = self._locate(record)
        return block.image(row)

    def labels(self, records: Int64[np.ndarray, "b"]) -> Int64[np.ndarray, "b"]:
        """Return the labels of `records`."""
        located = (self._locate(record) for record in records.tolist())
        return np.array([block.labels[row] for block, row in located], np.int64)

    def several(self, records: Int64[np.ndarray, "b"]) -> tuple[list[UInt8[np.ndarray, "..."]], Int64[np.ndarray, "b"]]:
        """Return the `image` of each of `records`, and their labels. This takes a third of the time of one call per record."""
        located = self.located(records)
        return located.images(), located.labels()

    def located(self, records: Int64[np.ndarray, "b"]) -> "Located":
        """Return the place of each of `records`, without reading the images."""
        if len(records) and not (records.min() >= 0 and records.max() < self._count):
            raise IndexError(f"records {records.min()}..{records.max()} are out of range: the number of records is {self._count}")
        shards = np.searchsorted(self._first, records, "right") - 1
        numbers, rows = np.divmod(records - self._first[shards], ROWS_A_BATCH[self.manifest.config.encoding])
        places = list(zip(shards.tolist(), numbers.tolist(), strict=True))
        blocks = {place: self._block(*place) for place in dict.fromkeys(places)}
        return Located([blocks[place] for place in places], rows)

    def key(self, record: int) -> str:
        """Return the key of a record: where its image came from."""
        shard, number, row = self._place(record)
        return str(self._batch(shard, number).column("key")[row])

    def keys(self) -> pa.ChunkedArray:
        """Return the keys of all records, in order, as one Arrow column."""
        batches = ((shard, number) for shard in range(len(self.shards)) for number in range(self._reader(shard).num_record_batches))
        return pa.chunked_array((self._batch(*place).column("key") for place in batches), pa.string())

    def pixels(self, record: int) -> UInt8[np.ndarray, "s s 3"]:
        """Return a record's pixels, decoded if it is a JPEG. Raise DataError, which names the record, if it is damaged or of another size."""
        image, size = self.image(record), self.manifest.config.size
        try:
            return decode_record(image, size) if self.manifest.config.encoding == "jpeg" else image
        except DataError as error:
            raise DataError(f"{self.where(record)}: {error}") from error

    def damage(self, record: int) -> str:
        """Return the record's name and what is wrong with it; "" if it is good."""
        try:
            self.pixels(record)
        except DataError as error:
            return self.damage(record) if self._fetched_again(self._row(record)[0]) else str(error)
        return ""

    def _fetched_again(self, shard: int) -> bool:
        """Drop a shard whose cached copy has a wrong checksum, so that it is downloaded again. Return whether it was dropped."""
        path, facts = self.manifest.directory / self.shards[shard].file, self.shards[shard]
        if self._cache is None or not isinstance(path, RemotePath) or self._cache.is_good(facts):
            return False
        self._forget(shard)
        self._cache.delete(facts)
        return True

    def substitute(self, record: int) -> int | None:
        """Return the substitute for a damaged record: the next good one within SEARCH records. Return None if there is none."""
        others = ((record + i) % self._count for i in range(1, min(SEARCH, self._count)))
        return next((other for other in others if not self.damage(other)), None)

    def read_ahead(self, first: int, count: int) -> None:
        """Hint that `count` records from `first` on are needed soon; return at once.

        Whole remote shards are downloaded into the cache. For local shards, on Linux, the system
        reads one range per shard into its page cache. The range is right to within a record batch,
        since the positions of records are estimated from their mean size.
        """
        count = min(count, self._count - first)
        while count > 0:
            shard, row = self._row(first)
            facts = self.shards[shard]
            rows = min(count, facts.rows - row)
            path = self.manifest.directory / facts.file
            if isinstance(path, RemotePath):
                if self._cache is not None and shard not in self._readers:
                    self._cache.ask(path, facts)
            elif hasattr(os, "posix_fadvise"):
                start, end = (facts.bytes * at // facts.rows for at in (row, row + rows))
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), start, end - start, os.POSIX_FADV_WILLNEED)
            first, count = first + rows, count - rows

    def place(self, record: int) -> tuple[str, int]:
        """Return the record's shard and row."""
        shard, row = self._row(record)
        return self.shards[shard].file, row

    def where(self, record: int) -> str:
        """Return the record's shard, row and key, for an error message."""
        file, row = self.place(record)
        return f"record {record} ({file} row {row}, from {printable(self.key(record))})"

    def unmap(self) -> None:
        """Release the mapped memory of the shards; it would grow to the size of all of them.

        The data stay in the system's page cache, and are mapped again on the next use.
        """
        for shard in self._touched:
            whole = self._maps.get(shard)
            if whole is not None:
                MADVISE(whole.address, whole.size, mmap.MADV_DONTNEED)
        self._touched.clear()

    def _row(self, record: int) -> tuple[int, int]:
        """Return (shard, row in it)."""
        if not 0 <= record < self._count:
            raise IndexError(f"record {record} is out of range: the number of records is {self._count}")
        shard = bisect_right(self._starts, record) - 1
        return shard, record - self._starts[shard]

    def _place(self, record: int) -> tuple[int, int, int]:
        """Return (shard, record batch, row in it)."""
        shard, row = self._row(record)
        return shard, *divmod(row, ROWS_A_BATCH[self.manifest.config.encoding])

    def _locate(self, record: int) -> tuple[Block, int]:
        shard, number, row = self._place(record)
        return self._block(shard, number), row

    def _block(self, shard: int, number: int) -> Block:
        self._touched.add(shard)
        if self._cache is not None:
            self._reader(shard)  # marks it as used, so that other shards are closed first
        block = self._blocks.get((shard, number))
        if block is None:
            if self._cache is None and isinstance(self.manifest.directory, RemotePath):
                while len(self._blocks) >= REMOTE_BLOCKS:  # these are in memory, not mapped
                    del self._blocks[next(iter(self._blocks))]
            block = self._blocks[shard, number] = self._read(shard, number)
        return block

    def _reader(self, shard: int) -> pa.RecordBatchFileReader:
        reader = self._readers.get(shard)
        if reader is not None and self._cache is not None:
            self._readers[shard] = self._readers.pop(shard)  # the most recently used comes last
        if reader is None:
            path = self.manifest.directory / self.shards[shard].file
            if self._cache is not None and isinstance(path, RemotePath):
                self._let_go(self.shards[shard].bytes)
                path = self._cache.hold(path, self.shards[shard])
            try:
                file = mapped(path) if isinstance(path, Path) else path.open_random()
                reader = pa.ipc.open_file(file)
                self._check(reader, shard)
                if isinstance(file, pa.Buffer):
                    self._maps[shard] = file
            except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
                if self._fetched_again(shard):
                    return self._reader(shard)
                raise DataError(f"{path} cannot be read as a shard: {error}; alexprep repair makes it again") from error
            self._readers[shard] = reader
        return reader

    def _let_go(self, needed: int) -> None:
        """Close the least recently used shards until `needed` more bytes may be held. Views that callers still have stay valid."""
        held = sum(self.shards[shard].bytes for shard in self._readers)
        for shard in list(self._readers):
            if held + needed <= self._holdable:
                return
            self._forget(shard)
            # This method is only called with a cache.
            self._cache.release(self.shards[shard])  # type: ignore[union-attr]
            held -= self.shards[shard].bytes

    def _forget(self, shard: int) -> None:
        self._readers.pop(shard, None)
        self._maps.pop(shard, None)
        self._blocks = {place: block for place, block in self._blocks.items() if place[0] != shard}

    def _check(self, reader: pa.RecordBatchFileReader, shard: int) -> None:
        if not reader.schema.equals(schema(self.manifest.config, [], {})):
            raise ValueError("its columns are not those that the parameters in manifest.json require")
        facts = json.loads(reader.schema.metadata[b"alexprep"])
        if facts["plan"] not in self.manifest.shard_plans:
            raise ValueError("it belongs to another data set than manifest.json")
        if ShardConfig(**facts["parameters"]) != self.manifest.config:
            raise ValueError("its parameters are not those of manifest.json")
        batches = -(-self.shards[shard].rows // ROWS_A_BATCH[self.manifest.config.encoding])
        if reader.num_record_batches != batches:
            raise ValueError(f"{reader.num_record_batches} record batches instead of {batches}")

    def _batch(self, shard: int, number: int) -> pa.RecordBatch:
        """Return a record batch after checking its offsets and strings; raise DataError if damaged.

        Arrow itself would follow the offsets wherever they point.
        """
        try:
            batch = self._reader(shard).get_batch(number)
            batch.validate(full=True)
            full = ROWS_A_BATCH[self.manifest.config.encoding]
            if len(batch) != min(full, self.shards[shard].rows - number * full):
                raise ValueError(f"it has {len(batch)} rows")
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            raise DataError(self._damaged(shard, number, error)) from error
        return batch

    def _read(self, shard: int, number: int) -> Block:
        batch = self._batch(shard, number)
        try:
            column = batch.column("image")
            labels = plain(batch.column("label"))
            if labels.min() < 0 or labels.max() >= len(self.manifest.classes):
                raise ValueError(f"it has labels outside 0..{len(self.manifest.classes) - 1}")
            if self.manifest.config.encoding == "raw":
                return Block(column.to_numpy_ndarray(), None, labels)
            _, offsets, data = column.field("bytes").buffers()
            return Block(np.frombuffer(data, np.uint8), np.frombuffer(offsets, np.int32)[: len(batch) + 1], labels)
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            raise DataError(self._damaged(shard, number, error)) from error

    def _damaged(self, shard: int, number: int, error: Exception) -> str:
        what = f"{self.manifest.directory / self.shards[shard].file} is damaged in record batch {number}"
        return f"{what}: {error}; alexprep repair makes the shard again"

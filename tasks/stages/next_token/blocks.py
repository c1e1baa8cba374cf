"""The blocks of a rank, as `pack-tokens` wrote them: read by Ray Data, checked, cut into rows of a context's length.

A row is `context` ids of a block and the ids that follow each of them. A block's first id is predicted by nothing, and
what follows its last one is in the next block: of S ids S - 1 are predicted, and no padding. As in GPT-2's training, a
row may hold the end of a review and the beginning of another; the model learns what end-of-text means.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.core.snapshots import Snapshot
from tasks.stages.text_model.rows import check_part

RANGE_IDS = 1 << 20  # ids that a task reads of a file without rows
BLOCKS = pa.schema([("block", pa.int64()), ("ids", pa.list_(pa.int32()))])
Array = NDArray[Any]


def ranges_of(packed: Snapshot) -> list[dict[str, Any]]:
    """Return a record for each range of blocks: its file, the number of its first block, and where it ends."""
    facts, entries = packed.facts, packed.entries()
    size = facts["block_size"]
    if entries:
        starts = np.cumsum([0, *(entry.rows or 0 for entry in entries)]).tolist()
        return [
            {"file": str(file), "dtype": "", "first": first, "stop": stop, "size": size}
            for file, first, stop in zip(packed.files(), starts[:-1], starts[1:], strict=True)
        ]
    blocks, each = packed.manifest.counts["blocks"], max(1, RANGE_IDS // size)
    file = {"file": str(packed.path("tokens.bin")), "dtype": facts["dtype"], "size": size}
    return [{**file, "first": a, "stop": min(a + each, blocks)} for a in range(0, blocks, each)]


def read_blocks(batch: dict[str, Array], *, rank: int, world_size: int) -> pa.Table:
    """Read the blocks rank, rank + world_size, ... of all blocks from the one range in a batch: a table of BLOCKS."""
    file, dtype = Path(str(batch["file"][0])), str(batch["dtype"][0])
    first, stop, size = (int(batch[name][0]) for name in ("first", "stop", "size"))
    if dtype:
        kind = np.dtype(dtype).newbyteorder("<")
        ids = np.fromfile(file, kind, (stop - first) * size, offset=first * size * kind.itemsize)
    else:
        ids = pq.ParquetFile(file).read(columns=["input_ids"])["input_ids"].combine_chunks().flatten().to_numpy()
    number = np.arange(first, stop)
    mine = np.flatnonzero(number % world_size == rank)
    chosen = ids.reshape(-1, size)[mine].astype(np.int32)
    lists = pa.ListArray.from_arrays(
        pa.array(np.arange(len(mine) + 1, dtype=np.int32) * size), pa.array(chosen.ravel())
    )
    return pa.table([pa.array(number[mine]), lists], schema=BLOCKS)


@dataclass(frozen=True)
class Blocks:
    """A rank's blocks in order. number: (n,); ids: (n, S) int32; written: ids of the stream before the padding."""

    number: Array
    ids: Array
    written: int

    @classmethod
    def of(cls, tables: Iterable[pa.Table], rank: int, world_size: int, size: int, total: int, written: int) -> Blocks:
        """Put tables of BLOCKS together. Raises RowsLost unless they are the rank's part of `total`, each once."""
        table = pa.concat_tables([BLOCKS.empty_table(), *(t.cast(BLOCKS) for t in tables)]).sort_by("block")
        number = table["block"].to_numpy()
        check_part(number, rank, world_size, total, unit="blocks", stage="next-token")
        ids = table["ids"].combine_chunks().flatten().to_numpy().reshape(-1, size)
        return cls(number, ids, written)

    def rows(self, places: Array, context: int) -> Rows:
        """Cut these blocks into rows."""
        size = self.ids.shape[1]
        starts = np.arange(0, size - 1, context)
        at = np.minimum(starts[:, None] + np.arange(context + 1), size - 1)
        ids = self.ids[places][:, at].reshape(-1, context + 1)
        counts = np.broadcast_to(
            starts[:, None] + np.arange(1, context + 1) < size, (len(places), len(starts), context)
        )
        position = (self.number[places, None, None] * size + starts[:, None] + np.arange(1, context + 1)).reshape(
            -1, context
        )
        return Rows(ids[:, :-1], ids[:, 1:], counts.reshape(-1, context) & (position < self.written), position)


@dataclass(frozen=True)
class Rows:
    """(n, context) each: ids, the ids that follow, whether these count, and the places of these in the stream."""

    ids: Array
    following: Array
    counts: Array
    position: Array

    def __len__(self) -> int:
        return len(self.ids)

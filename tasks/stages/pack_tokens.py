"""Pack token ids into blocks of equal length for training a language model.

In: token ids of each review (`schemas.TOKENS`). They are concatenated in row order with an end-of-text id after each
review, and this stream is cut every `block_size` ids; the last block is padded with end-of-text. Nothing is lost:
tokens + documents + padding = blocks * block_size, or the stage fails.

Out, `bin`: `tokens.bin`, the stream as little-endian uint16, or uint32 if the vocabulary has more than 65,536 ids,
without a header, for `np.memmap`. `parquet`: `input_ids` fixed_size_list<int32>[block_size], one row per block.

The column `n_tokens` gives each file's place in the stream before any ids are read, so the files are packed in
parallel. In `bin` each task writes its own range of one preallocated file, and the bytes depend on the reviews alone.
In `parquet` a block belongs to the file in which it begins, and this file's task reads on into the next files. A task
holds CHUNK_DOCUMENTS reviews at a time, and a row group of blocks.

    raymill run --until pack-tokens --set pack_tokens.enabled=true
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from tasks.core.errors import RowsLost, SettingsError, SnapshotCorrupt
from tasks.core.sections import Section
from tasks.core.snapshot_files import FileEntry, FileSink, fsync, part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.engines import cluster

BIN = "tokens.bin"
CHUNK_DOCUMENTS = 8192  # read at once: 5 MB of ids in reviews of usual length
GROUP_IDS = 1 << 22  # in a row group of blocks: 16 MiB
# Byte-stream split: the same size as with a dictionary, read four times as fast.
PARQUET: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": False,
    "column_encoding": {"input_ids.list.element": "BYTE_STREAM_SPLIT"},
}

Ids = NDArray[np.int32]
Each = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], list[Any]]


@dataclass(frozen=True)
class Packing:
    """The number of ids in a block, the id that ends each document, and the number of ids in the vocabulary."""

    block_size: int
    end_of_text: int
    vocabulary: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the type of an id in `tokens.bin`."""
        return np.dtype("<u2" if self.vocabulary <= 1 << 16 else "<u4")


@dataclass(frozen=True)
class Part:
    """One file of documents, and the offset `start` of its part of the stream, in ids."""

    file: Path
    documents: int
    tokens: int
    start: int

    @property
    def stop(self) -> int:
        return self.start + self.tokens + self.documents  # one end-of-text per document


class PackTokensConfig(Section):
    enabled: bool
    block_size: Annotated[int, Field(ge=2)]
    format: Literal["bin", "parquet"]


def blocks(packed: Snapshot) -> int:
    return packed.manifest.counts["blocks"]  # a file of the format bin has no rows


@stage(version=1, config=PackTokensConfig, unit="blocks", size=blocks, libraries=("pyarrow", "numpy"))
def pack_tokens(tokens: Snapshot, config: PackTokensConfig, out: SnapshotWriter) -> None:
    import ray

    def on_ray(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> list[Any]:
        task = ray.remote(function)
        return cluster.gather([task.remote(*call) for call in calls])

    packing = packing_of(tokens.facts, config.block_size)
    parts = place(tokens.files(), on_ray)
    pack = pack_bin if config.format == "bin" else pack_parquet
    entries, written = pack(parts, packing, out.sink, on_ray)
    out.add(entries)
    counts = {"documents": sum(p.documents for p in parts), "tokens": sum(p.tokens for p in parts)}
    stored = entries[0].size // packing.dtype.itemsize if config.format == "bin" else out.rows() * packing.block_size
    out.count(**counts, **account(**counts, written=written, stored=stored, block_size=packing.block_size))
    dtype = packing.dtype.name if config.format == "bin" else "int32"
    out.fact(dtype=dtype, **vars(packing))


def packing_of(facts: dict[str, Any], block_size: int) -> Packing:
    """Make the packing from `tokenize`'s facts. Raises SettingsError if the tokenizer has no end-of-text."""
    end_of_text = facts.get("end_of_text")
    if end_of_text is None:
        raise SettingsError(
            "the tokenizer has no end-of-text token, which separates the reviews in the blocks",
            where="tokenize.tokenizer",
            fix="choose a tokenizer that has one (eos_token), or set pack_tokens.enabled=false",
        )
    return Packing(block_size, int(end_of_text), int(facts["vocabulary"]))


def place(files: Sequence[Path], each: Each) -> list[Part]:
    """Place the files in the stream, in order, by prefix sums."""
    parts, start = [], 0
    for file, (documents, tokens) in zip(files, each(measure, [(f,) for f in files]), strict=True):
        parts.append(Part(file, documents, tokens, start))
        start = parts[-1].stop
    return parts


def measure(file: Path) -> tuple[int, int]:
    """Count the documents and tokens of a file."""
    counts = pq.ParquetFile(file).read(columns=["n_tokens"])["n_tokens"].to_numpy()
    return len(counts), int(counts.sum(dtype=np.int64))


def stream(parts: Iterable[Part], start: int, stop: int, end_of_text: int) -> Iterator[Ids]:
    """Yield the stream's ids from `start` to `stop`, or to the end of the last consecutive part, in pieces."""
    for part in parts:
        at = part.start
        for ids in read_documents(part.file, end_of_text):
            yield ids[max(0, start - at) : max(0, stop - at)]
            at += len(ids)
            if at >= stop:
                return


def read_documents(file: Path, end_of_text: int) -> Iterator[Ids]:
    """Yield the ids of a file's documents, an end-of-text after each, CHUNK_DOCUMENTS documents at a time."""
    for batch in pq.ParquetFile(file).iter_batches(CHUNK_DOCUMENTS, columns=["input_ids", "n_tokens"]):
        lists = batch["input_ids"]
        lengths = lists.value_lengths().to_numpy()
        if not np.array_equal(lengths, batch["n_tokens"].to_numpy()):
            # Offsets in the stream come from n_tokens: a wrong one would overwrite another file's ids.
            raise SnapshotCorrupt("n_tokens differs from the number of ids in input_ids", where=str(file))
        yield np.insert(lists.flatten().to_numpy(), np.cumsum(lengths), end_of_text)


def pack_bin(parts: Sequence[Part], packing: Packing, sink: FileSink, each: Each) -> tuple[list[FileEntry], int]:
    """Write `tokens.bin`. Returns its entry and the number of ids written, without padding."""
    length = parts[-1].stop if parts else 0
    path = Path(sink.root) / BIN
    with path.open("wb") as file:
        file.truncate(length * packing.dtype.itemsize)
        file.seek(0, 2)
        file.write(np.full(-length % packing.block_size, packing.end_of_text, packing.dtype).data)
    written = sum(each(write_range, [(part, path, packing) for part in parts]))
    return [sink.entry(BIN)], written


def write_range(part: Part, path: Path, packing: Packing) -> int:
    """Write a part's ids to their place in the file, which has its full size already. Returns their number."""
    size = packing.dtype.itemsize
    with path.open("r+b") as file:
        file.seek(part.start * size)
        for ids in stream([part], part.start, part.stop, packing.end_of_text):
            file.write(narrow(ids, packing, part.file).data)
        written = file.tell() // size - part.start
        fsync(file)  # here too: another machine may create the file's entry
    return written


def narrow(ids: Ids, packing: Packing, file: Path) -> NDArray[Any]:
    """Cast the ids to unsigned integers. Raises SnapshotCorrupt for one that does not fit."""
    limit = np.iinfo(packing.dtype).max
    if len(ids) and (ids.max() > limit or ids.min() < 0):
        wrong = int(ids[(ids > limit) | (ids < 0)][0])
        raise SnapshotCorrupt(
            f"the id {wrong} is outside the vocabulary of {packing.vocabulary:,} and does not fit {packing.dtype.name}",
            where=str(file),
            fix="check the tokenizer's files, or use pack_tokens.format=parquet",
        )
    return ids.astype(packing.dtype)


def pack_parquet(parts: Sequence[Part], packing: Packing, sink: FileSink, each: Each) -> tuple[list[FileEntry], int]:
    """Write the table of blocks, one file for each part in which a block begins; without blocks, one empty file.

    Returns the entries and the number of ids in the blocks, without padding.
    """
    owned = [o for i in range(len(parts)) if (o := blocks_of(parts, i, packing.block_size))] or [([], 0, 0)]
    made = each(write_blocks, [(*o, sink, part_name(i), packing) for i, o in enumerate(owned)])
    return [entry for entry, _ in made], sum(written for _, written in made)


def blocks_of(parts: Sequence[Part], index: int, size: int) -> tuple[list[Part], int, int] | None:
    """Return the parts to read for the blocks that begin in a part, the first block and the end; None if none begin."""
    first, stop = -(-parts[index].start // size), -(-parts[index].stop // size)
    if first == stop:
        return None
    end = index + 1
    while end < len(parts) and parts[end].start < stop * size:
        end += 1
    return list(parts[index:end]), first, stop


def write_blocks(
    parts: Sequence[Part], first: int, stop: int, sink: FileSink, name: str, packing: Packing
) -> tuple[FileEntry, int]:
    """Write the blocks from `first` up to `stop`. Returns the file's entry, and its number of ids without padding."""
    size = packing.block_size
    schema = pa.schema([pa.field("input_ids", pa.list_(pa.int32(), size), nullable=False)])
    rows = written = 0
    pieces = stream(parts, first * size, stop * size, packing.end_of_text)
    path = Path(sink.root) / name
    with pq.ParquetWriter(path, schema, **PARQUET) as writer:
        for ids in regroup(pieces, size * max(1, GROUP_IDS // size)):
            padded = np.pad(ids, (0, -len(ids) % size), constant_values=packing.end_of_text)
            blocks = pa.FixedSizeListArray.from_arrays(pa.array(padded), size)
            writer.write_table(pa.table([blocks], schema=schema))
            rows, written = rows + len(blocks), written + len(ids)
    return sink.entry(name, rows), written


def regroup(pieces: Iterable[Ids], length: int) -> Iterator[Ids]:
    """Regroup the ids into arrays of this length; the last may be shorter, and none is empty."""
    waiting: list[Ids] = []
    waiting_ids = 0
    for piece in pieces:
        waiting.append(piece)
        waiting_ids += len(piece)
        if waiting_ids >= length:
            together = np.concatenate(waiting)
            complete = waiting_ids - waiting_ids % length
            yield from (together[at : at + length] for at in range(0, complete, length))
            waiting, waiting_ids = [together[complete:]], waiting_ids - complete
    if waiting_ids:
        yield np.concatenate(waiting)


def account(*, documents: int, tokens: int, written: int, stored: int, block_size: int) -> dict[str, int]:
    """Count blocks and padding. Raises RowsLost unless the files hold the whole stream and nothing else.

    written: ids that the tasks put into blocks; stored: ids in the files, padding included.
    """
    blocks = -(-(tokens + documents) // block_size)
    padding = blocks * block_size - tokens - documents
    if written != tokens + documents or stored != written + padding:
        raise RowsLost(
            f"{tokens:,} tokens and {documents:,} documents in, but {written:,} ids and {padding:,} of padding out, "
            f"in blocks that hold {stored:,}",
            where="pack-tokens",
            fix="this is a bug in the stage; please report it with the input",
        )
    return {"blocks": blocks, "padding": padding}

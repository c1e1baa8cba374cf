"""Rows to learn the next token from: the ids of a snapshot or of other files, cut to the model's length.

    what is given                                   what is read
    a snapshot's folder or its manifest.json        the files that the manifest names: of tokenize, or of pack-tokens in
                                                    either format
    its attempt's folder or its tokens.bin          the same
    another folder, or a parquet file               lists of integers in the column `input_ids`

A list is cut into pieces of positions + 1 ids, each of which begins with the last id of the one before. So every id but
a list's first is a target, once. The padding of the last block is left out where a manifest tells its length.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from tasks.core.errors import InputError
from tasks.core.snapshots import Snapshot, load_manifest
from tasks.deep.batches import Batch

TAKEN = "a snapshot of tokenize or pack-tokens, or parquet with lists of ids in `input_ids`"
Array = NDArray[Any]
Lists = tuple[Array, Array]  # all ids, int64, and the length of each list


def from_files(path: Path, positions: int) -> Batch:
    """Return rows of at most `positions` tokens, each token's target the one after it.

    Raises InputError for no files, files without ids, and lists that hold nothing to predict.
    """
    rows, there = pieces(*lists_of(path), positions)
    if not len(rows):
        raise InputError("no row has two tokens", where=str(path), fix=TAKEN)
    ids, mask = torch.from_numpy(rows), torch.from_numpy(there)
    return {"tokens": ids[:, :-1], "mask": mask[:, 1:], "target": ids[:, 1:], "weight": mask[:, 1:].float()}


def check_ids(rows: Batch, vocabulary: int) -> None:
    """Raise InputError for an id outside the vocabulary; a row's last one is a target alone."""
    least = min(int(rows[name].min()) for name in ("tokens", "target"))
    most = max(int(rows[name].max()) for name in ("tokens", "target"))
    if least < 0 or most >= vocabulary:
        raise InputError(
            f"token {least if least < 0 else most} of a vocabulary of {vocabulary}",
            where="model.vocabulary",
            fix="the vocabulary that the tokens were made with",
        )


def pieces(ids: Array, lengths: Array, positions: int) -> tuple[Array, Array]:
    """Cut lists into rows (n, T) of at most positions + 1 ids, filled with 0; the second array says where an id is."""
    ends = np.cumsum(lengths)
    count = -(-np.maximum(lengths - 1, 0) // positions)
    of = np.repeat(np.arange(len(lengths)), count)
    number = np.arange(len(of)) - np.repeat(np.cumsum(count) - count, count)  # in its list
    starts = (ends - lengths)[of] + number * positions
    sizes = np.minimum(positions + 1, ends[of] - starts)
    place = np.arange(sizes.max(initial=0))
    there = place < sizes[:, None]
    return np.where(there, ids[np.minimum(starts[:, None] + place, len(ids) - 1)], 0), there


def lists_of(path: Path) -> Lists:
    """Read all lists, in order."""
    if snapshot := snapshot_of(path):
        return _of_snapshot(snapshot)
    if path.suffix == ".bin":
        raise InputError(
            "no manifest says the type of its ids", where=str(path), fix="leave it in its snapshot, or pack as parquet"
        )
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise InputError("no parquet files", where=str(path), fix=f"give {TAKEN}")
    return _of_parquet(files)


def snapshot_of(path: Path) -> Snapshot | None:
    """Return the snapshot that this folder or file belongs to, None for other files."""
    folder = path
    if path.name == "manifest.json" or path.name.startswith("attempt-"):
        folder = path.parent
    elif path.suffix == ".bin":
        folder = path.parent.parent
    if not (folder / "manifest.json").is_file():
        return None
    manifest = load_manifest(folder / "manifest.json")
    return Snapshot(manifest.stage, manifest.key, manifest.digest, str(folder))


def _of_snapshot(snapshot: Snapshot) -> Lists:
    facts, counts = snapshot.facts, snapshot.manifest.counts
    if snapshot.entries():
        ids, lengths = _of_parquet(snapshot.files())
    elif snapshot.stage == "pack-tokens":
        kind = np.dtype(facts["dtype"]).newbyteorder("<")
        ids = np.fromfile(snapshot.path("tokens.bin"), kind).astype(np.int64)
        lengths = np.full(counts["blocks"], facts["block_size"], dtype=np.int64)
    else:
        raise InputError(f"a snapshot of {snapshot.stage} has no ids", where=snapshot.folder, fix=f"give {TAKEN}")
    if padding := counts.get("padding"):
        ids, lengths[-1] = ids[:-padding], lengths[-1] - padding
    return ids, lengths


def _of_parquet(files: list[Path]) -> Lists:
    ids, lengths = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for file in files:
        for part in _column(file).chunks:
            values = part.flatten()
            if values.null_count:
                raise InputError("a list has an id that is null", where=str(file), fix="leave such lists out")
            ids.append(values.to_numpy())
            lengths.append(part.value_lengths().to_numpy().astype(np.int64))
    return np.concatenate(ids), np.concatenate(lengths)


def _column(file: Path) -> pa.ChunkedArray:
    """Read `input_ids` of a file; lists that are null are left out."""
    try:
        stored = pq.ParquetFile(file)
        if "input_ids" not in stored.schema_arrow.names:
            raise InputError("no column input_ids", where=str(file), fix=f"give {TAKEN}")
        return stored.read(columns=["input_ids"])["input_ids"].drop_null().cast(pa.list_(pa.int64()))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot be read ({error})", where=str(file), fix=f"give {TAKEN}") from error

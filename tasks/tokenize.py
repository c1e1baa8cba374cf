"""Clean reviews in, GPT-2 token ids out, through Ray Data.

What is tokenized is the title, a newline and the text, or the text alone where there is no title. Out: one file per
file of reviews, in the same row order: `review_id`, `input_ids` list<int32>, `n_tokens`.

Ray Data carries the names of files, not their rows: each call of the `map_batches` actors reads one file, encodes it
and writes one, so nothing is copied from block to block and the output does not depend on block sizes or timing.

    raymill run --until tokenize
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.schemas import TOKENS
from tasks.core.settings import TokenizeConfig
from tasks.core.snapshots import FileEntry, FileSink, Snapshot, SnapshotWriter, part_name
from tasks.core.stage import stage
from tasks.engines import tokenizer

CHUNK_ROWS = 20_000  # texts encoded at once: bounds the pre-tokens alive


@stage(version=1, libraries=("pyarrow", "polars", "tokenizers", "transformers"))
def tokenize(reviews: Snapshot, config: TokenizeConfig, out: SnapshotWriter) -> None:
    import ray.data

    if config.tokenizer != tokenizer.GPT2:
        tokenizer.load(config.tokenizer)  # a wrong folder fails here, not in an actor
    # `max_restarts` has no named parameter yet (Ray 2.60), only a warning that it will get one.
    warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    files = [{"index": i, "file": str(f)} for i, f in enumerate(reviews.files())]
    parts = ray.data.from_items(files, override_num_blocks=len(files)).map_batches(
        EncodeFiles,
        fn_constructor_args=(out.sink, config),
        batch_size=1,
        # Actors that claim every CPU would leave none for the reads and hang for ever (ray#44687).
        num_cpus=0.5,
        max_restarts=0,  # a lost actor fails the stage, which is tried again whole; Ray Data warns of its own restarts
        compute=ray.data.ActorPoolStrategy(size=min(2, len(files))),
    )
    written = parts.take_all()
    out.add(FileEntry(**{name: row[name] for name in ("name", "size", "rows", "sha256")}) for row in written)
    out.count(tokens=sum(row["tokens"] for row in written), truncated=sum(row["truncated"] for row in written))


class EncodeFiles:
    """A Ray Data actor: the tokenizer is loaded once, each batch is one file's name."""

    def __init__(self, sink: FileSink, config: TokenizeConfig) -> None:
        self.sink, self.config = sink, config
        loaded = tokenizer.load(config.tokenizer)
        fast = config.tokenizer == tokenizer.GPT2
        self.encode = partial(tokenizer.encode_gpt2 if fast else tokenizer.encode, loaded)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        index, file = int(batch["index"][0]), Path(str(batch["file"][0]))
        tokens, truncated = encode_file(file, self.encode, self.config.max_tokens)
        entry = self.sink.write_table(part_name(index), tokens, TOKENS)
        facts = {**entry.model_dump(), "tokens": pc.sum(tokens["n_tokens"]).as_py() or 0, "truncated": truncated}
        return {name: [value] for name, value in facts.items()}


def encode_file(
    file: Path, encode: Callable[[pl.Series], pa.ListArray], max_tokens: int | None
) -> tuple[pa.Table, int]:
    """One file of reviews as TOKENS, and how many of its reviews were cut to `max_tokens`."""
    reviews = pl.read_parquet(file, columns=["review_id", "title", "text"], hive_partitioning=False)
    said = pl.when(pl.col("title") == "").then(pl.col("text")).otherwise(pl.col("title") + "\n" + pl.col("text"))
    pieces, truncated = [], 0
    for rows in reviews.select("review_id", said=said).iter_slices(CHUNK_ROWS):
        ids = encode(rows["said"])
        lengths = pc.list_value_length(ids)
        if max_tokens is not None:
            truncated += pc.sum(pc.greater(lengths, max_tokens)).as_py() or 0
            ids = pc.list_slice(ids, 0, max_tokens)
            lengths = pc.min_element_wise(lengths, max_tokens)
        pieces.append(
            pa.table({"review_id": rows["review_id"].to_arrow(), "input_ids": ids, "n_tokens": lengths}).cast(TOKENS)
        )
    return pa.concat_tables(pieces) if pieces else TOKENS.empty_table(), truncated

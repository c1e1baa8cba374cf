"""Shared by the bench cases `tokenize` and `wordcount`: make clean reviews of a given size, and run a side on them.

The input is a folder of parquet files with the columns of clean's output, about FILE_ROWS rows each, and `about.json`,
which describes them. Raw reviews, by default synthetic ones, go through the stages ingest and clean. If they have less
text than needed, all rows are repeated under new ids, in another order each time. The number of distinct words decides
how hard both cases are, and repeated rows add none, so the checks report both.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from benchmarks.harness import SelfTimed, Setup, Timed, median_run
from benchmarks.inputs import SEED, kept
from benchmarks.sides import StageJob, run_unvalidated, start_ray
from tasks.core.errors import InputError
from tasks.core.snapshots import Snapshot
from tasks.core.source_code import source_digest
from tasks.core.storage.store import SnapshotStore
from tasks.settings import Settings

FILE_ROWS = 65_536
MEGABYTE = 1_000_000
SYNTHETIC_BYTES = 700  # of UTF-8 in a clean synthetic row: slightly underestimated, so that there are enough rows
GPT2_PIECE = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"


@dataclass(frozen=True)
class About:
    """What the files hold. `bytes` is UTF-8 of title, newline and text; `rounds` how often rows were repeated."""

    rows: int
    bytes: int
    files: int
    rounds: int
    left_out: int  # rows of the first round with a character on which the libraries disagree
    pre_tokens: int  # distinct ones, by GPT-2's pattern


@dataclass(frozen=True)
class TextInput:
    """The files, in row order."""

    folder: Path
    about: About

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.glob("*.parquet"))

    @property
    def megabytes(self) -> float:
        return self.about.bytes / MEGABYTE

    def __str__(self) -> str:
        about, text = self.about, f"{self.about.rows:,} reviews"
        if about.rounds > 1:
            text += f" (the same ones up to {about.rounds} times)"
        if about.left_out:
            text += f" ({about.left_out:,} of all were left out, for characters on which the libraries do not agree)"
        return text


@dataclass(kw_only=True)
class Job(StageJob):
    """The input, as files and as a snapshot."""

    text: TextInput
    reviews: Snapshot


@dataclass(frozen=True)
class Output:
    """The files of a side, and for ours the counts of the snapshot and the seconds of the stage by phase."""

    files: list[Path]
    counts: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


def start(setup: Setup) -> Job:
    """Start Ray and make the input; this is `prepare` of both cases."""
    settings = start_ray(setup)
    text = prepared(setup, settings)
    reviews = committed(text, setup.scratch / "reviews")
    return Job(text=text, reviews=reviews, workers=setup.workers, scratch=setup.scratch, settings=settings)


def measure_input(job: Job) -> dict[str, int]:
    return asdict(job.text.about)


def run_stage_alone(job: Job, stage: Any, config: Any) -> SelfTimed:
    """Run a stage on the reviews once, from nothing and without validation."""
    store = job.empty_store()
    began = time.perf_counter()  # not before: removing the last run's output does not count
    ran = run_unvalidated(stage, [job.reviews], config, store)
    took = time.perf_counter() - began
    return SelfTimed(took, Output(ran.snapshot.files(), ran.snapshot.manifest.counts, ran.seconds))


def peer(module: str, name: str) -> Callable[[Job], SelfTimed]:
    """Return a peer of that module, which takes NAME INPUT OUT and runs in its own process."""

    def run(job: Job) -> SelfTimed:
        out, took = job.run_peer(module, name, job.text.folder)
        return SelfTimed(took, Output(sorted(out.glob("*.parquet"))))

    return run


def speeds(job: Job, runs: Mapping[str, Sequence[Timed]], tokens: int | None = None) -> dict[str, dict[str, Any]]:
    """Report each side's median time per megabyte and per token, and our median run's seconds by phase."""
    report: dict[str, dict[str, Any]] = {}
    for side, timed in runs.items():
        wall_s = statistics.median(run.wall_s for run in timed)
        megabytes = job.text.megabytes
        report[side] = {"mb_per_s": round(megabytes / wall_s, 3), "s_per_mb": round(wall_s / megabytes, 5)}
        if tokens is not None:
            report[side] |= {"tokens": tokens, "tokens_per_s_per_core": round(tokens / wall_s / job.workers)}
    report["ours"]["phases_s"] = dict(median_run(runs["ours"]).output.seconds)
    return report


def prepared(setup: Setup, settings: Settings) -> TextInput:
    """Make `setup.size` MB of the reviews in `setup.input`, or of synthetic ones, which are kept for the next bench.

    Ray must be up. Raises InputError if the input has no usable review.
    """
    if setup.input is not None:
        write_text(partial(cleaned, setup.input, settings, setup.scratch), setup.size, setup.scratch / "input")
        return load(setup.scratch / "input")
    made_by = source_digest("tasks.stages.clean.stage")[:8]  # other cleaning code gives other texts
    rows = partial(synthetic, settings, setup)
    return load(kept(f"text-{setup.size}-{SEED}-{made_by}", partial(write_text, rows, setup.size)))


def load(folder: Path) -> TextInput:
    return TextInput(folder, About(**json.loads((folder / "about.json").read_text())))


def synthetic(settings: Settings, setup: Setup) -> Any:
    """Make enough clean synthetic reviews."""
    from tasks.sources.synth import synthesize

    synthesize(setup.size * MEGABYTE // SYNTHETIC_BYTES + 1, SEED, setup.scratch / "raw")
    return cleaned(setup.scratch / "raw", settings, setup.scratch)


def cleaned(raw: Path, settings: Settings, scratch: Path) -> Any:
    """Clean all reviews of a folder with the columns of the US customer reviews, or of REVIEWS, to a Polars frame."""
    import polars as pl

    from tasks.sources import discover
    from tasks.stages.clean.stage import clean
    from tasks.stages.ingest.stage import ingest

    run = partial(run_unvalidated, store=SnapshotStore(scratch / "clean"))
    taken = run(ingest, [discover(str(raw), dataset_of(raw), settings.ingest)], settings.ingest)
    return pl.DataFrame(pl.from_arrow(run(clean, [taken.snapshot], settings.clean).snapshot.read()))


def dataset_of(raw: Path) -> str:
    """Return the dataset profile for these files."""
    import pyarrow.parquet as pq

    files = sorted(raw.rglob("*.parquet")) if raw.is_dir() else [raw]
    canonical = files and files[0].suffix == ".parquet" and "item_id" in pq.read_schema(files[0]).names
    return "canonical" if canonical else "amazon-us"


def write_text(rows: Callable[[], Any], megabytes: int, folder: Path) -> None:
    """Write the files and `about.json` to a new folder; `rows` makes the clean reviews, a Polars frame."""
    import numpy as np
    import polars as pl

    from tasks.core.snapshot_files import FileSink, part_name
    from tasks.domain.schemas import FEW_VALUES, REVIEWS

    reviews = rows()
    usable = reviews.filter(~title_and_text().str.contains(disputed()))
    sizes = usable.select(title_and_text().str.len_bytes().cast(pl.Int64)).to_series().to_numpy()
    if not sizes.sum():
        raise InputError("no usable review with a text", where="bench", fix="give more reviews with --input")
    order, rounds = taken(sizes, megabytes * MEGABYTE)
    folder.mkdir(parents=True)
    files = -(-len(order) // FILE_ROWS)
    parts = zip(np.array_split(order, files), np.array_split(rounds, files), strict=True)
    for index, (rows_of_file, again) in enumerate(parts):
        part = usable[rows_of_file].with_columns(again=pl.Series(again))
        renamed = pl.when(pl.col("again") > 0).then(pl.format("{}-{}", "review_id", "again")).otherwise("review_id")
        table = part.with_columns(review_id=renamed).to_arrow()
        FileSink(str(folder)).write_table(part_name(index), table, REVIEWS, dictionary=FEW_VALUES)
    about = About(
        rows=len(order),
        bytes=int(sizes[order].sum()),
        files=files,
        rounds=int(rounds[-1]) + 1,
        left_out=len(reviews) - len(usable),
        pre_tokens=different(usable[np.unique(order)].iter_slices(FILE_ROWS)),
    )
    (folder / "about.json").write_text(json.dumps(asdict(about)))


def title_and_text() -> Any:
    import polars as pl

    return pl.col("title") + "\n" + pl.col("text")


def taken(sizes: Any, wanted: int) -> tuple[Any, Any]:
    """Choose rows until their `sizes` (bytes) reach `wanted`; returns their numbers, and the round of each."""
    import numpy as np

    rounds = -(-wanted // int(sizes.sum()))
    order = np.concatenate([np.random.default_rng([SEED, r]).permutation(len(sizes)) for r in range(rounds)])
    enough = int(np.searchsorted(np.cumsum(sizes[order]), wanted)) + 1
    return order[:enough], np.repeat(np.arange(rounds), len(sizes))[:enough]


def different(parts: Iterable[Any]) -> int:
    """Count the distinct pre-tokens of the texts. A text with consecutive white space may add an error of one."""
    import polars as pl

    pieces = title_and_text().str.extract_all(GPT2_PIECE).alias("piece")
    return int(pl.concat(part.select(pieces).explode("piece").unique() for part in parts).n_unique())


@lru_cache
def disputed() -> str:
    """Return a pattern of what the libraries disagree on, as their Unicode versions or their rules differ.

    It matches characters that Python's Unicode version has not assigned yet (others may treat them as letters); the
    capitals İ and Σ, which DuckDB lower-cases without their context, unlike the others; and GPT-2's special token.
    """
    unassigned = {code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Cn"}
    return "[İΣ" + code_ranges(unassigned, r"\x{%x}-\x{%x}") + r"]|<\|endoftext\|>"


def code_ranges(codes: set[int], form: str) -> str:
    """Write code points as the inside of a character class; `form` is the format of a range."""
    starts = sorted(code for code in codes if code - 1 not in codes)
    ends = sorted(code for code in codes if code + 1 not in codes)
    return "".join(form % pair for pair in zip(starts, ends, strict=True))


def committed(text: TextInput, storage: Path) -> Snapshot:
    """Commit the files, linked, as a snapshot of clean in its own store."""
    import pyarrow.parquet as pq

    from tasks.core.digests import file_sha256
    from tasks.core.snapshot_files import FileEntry

    store = SnapshotStore(storage)
    out = store.open_attempt("clean", "bench")
    for file in text.files:
        try:
            os.link(file, out.root / file.name)
        except OSError:  # another device
            (out.root / file.name).symlink_to(file.resolve())
        rows = pq.read_metadata(file).num_rows
        out.add([FileEntry(name=file.name, size=file.stat().st_size, rows=rows, sha256=file_sha256(file))])
    made_by = {"inputs": (), "config": {}, "config_digest": "", "code": {}, "seconds": {}, "committed_at": ""}
    return store.commit(out, deterministic=True, **made_by)

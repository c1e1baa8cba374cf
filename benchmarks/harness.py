"""The bench: correct first, then timed, against the best single-process way to do the same work.

A case is a module `benchmarks/cases/NAME.py` with `CASE = Case(...)`; docs/how-to.md builds one. `run_case` prepares
its input once, checks that our output equals each peer's, runs every side once more as a warm-up while a thread samples
memory, then times them in turn (ours, peer, ours, peer, ...) with nothing else running. Memory is never sampled while
the clock runs: reading the page tables of thirty Ray workers takes a tenth of a second.

    raymill bench CASE [--size N] [--workers W] [--runs R] [--input PATH] [--peer NAME ...] [--json FILE|-]
"""

from __future__ import annotations

import gc
import importlib
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from benchmarks.machine import LIBRARIES as OF_THE_PRODUCT
from benchmarks.machine import PeakMemory, machine
from tasks.core.errors import RunError, UserError

PEERS = ("tokenizers", "transformers", "tiktoken", "duckdb", "pyspark", "mlflow", "great-expectations", "prefect")
LIBRARIES = (*OF_THE_PRODUCT, *PEERS)


@dataclass(frozen=True)
class Setup:
    """What a case prepares its input from. `scratch` is an empty folder that goes away when the case is done, and
    `cleanup` takes what has to be closed by then (`setup.cleanup.callback(ray.shutdown)`)."""

    size: int
    workers: int
    scratch: Path
    input: Path | None = None
    cleanup: ExitStack = field(default_factory=ExitStack)


@dataclass(frozen=True)
class Timed:
    """One timed run: wall seconds, what the side returned (None unless the case has `details`), and its notes."""

    wall_s: float
    output: Any
    notes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SelfTimed:
    """What a side returns that took its own wall seconds, since it started a process that has to import first.

    `notes` are other numbers of this run, such as the seconds of that start; their medians are in the side's object.
    """

    wall_s: float
    output: Any
    notes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One comparison. `data` below is what `prepare` returned; peers get the same input and the same cores.

    `check(data, ours, peers)` gets one output of each side and returns what it found equal, as text; it raises
    RunError or AssertionError where they differ. `details(data, runs)` gets the timed runs by side ("ours" and the
    peers' names) and returns more keys for each side's object.
    """

    name: str
    size_of: str  # what --size counts, for example "rows"
    default_size: int
    prepare: Callable[[Setup], Any]
    ours: Callable[[Any], Any]
    peers: Mapping[str, Callable[[Any], Any]]
    check: Callable[[Any, Any, Mapping[str, Any]], str]
    measure_input: Callable[[Any], dict[str, int]] | None = None  # for "size", for example {"rows": …, "bytes": …}
    details: Callable[[Any, Mapping[str, Sequence[Timed]]], Mapping[str, dict[str, Any]]] | None = None
    # Whether `details` gets the runs' outputs. What is in the object store must not stay from run to run: a full
    # store writes to disk.
    keeps_outputs: bool = True
    takes_input: bool = False
    # Sides in processes of their own, minutes long: the checked run is the warm-up too.
    check_is_warm_up: bool = False
    # size -> the peers that cannot run at it, each with the reason.
    skip: Callable[[int], Mapping[str, str]] | None = None


def known_cases() -> list[str]:
    """Names of the cases, sorted: the modules of benchmarks.cases that define `CASE`. Nothing is imported."""
    files = (Path(__file__).parent / "cases").glob("*.py")
    return sorted(f.stem for f in files if re.search(r"^CASE\b", f.read_text(), re.MULTILINE))


def load_case(name: str) -> Case:
    """The case of that name. Raises UserError for an unknown one."""
    known = known_cases()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise UserError(f"no bench case {name!r}", fix=hint)
    case: Case = importlib.import_module(f"benchmarks.cases.{name}").CASE
    return case


def run_case(
    case: str | Case,
    *,
    size: int | None = None,
    workers: int = 2,
    runs: int = 3,
    input: Path | None = None,
    peers: Sequence[str] | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Check, warm up, time; return the case's JSON object as printed by `--json -`. Times in seconds, memory in bytes.

    `peers` names those to run, all if not given.

    Raises UserError for an unknown case or peer or an impossible size, RunError where the outputs differ; nothing is
    timed then.
    """
    case = load_case(case) if isinstance(case, str) else case
    size = case.default_size if size is None else size
    for option, value in (("size", size), ("workers", workers), ("runs", runs)):
        if value < 1:
            raise UserError(f"--{option} must be 1 or more, got {value}", where=f"bench {case.name}")
    if input is not None and not case.takes_input:
        raise UserError(
            "this case makes its own input", where=f"bench {case.name}", fix="leave --input out, use --size"
        )
    if input is not None and not input.exists():
        raise UserError(f"no such file or folder: {input}", where=f"bench {case.name}")

    if unknown := sorted(set(peers or ()) - set(case.peers)):
        raise UserError(f"no peer {unknown[0]!r}", where=f"bench {case.name}", fix=f"known: {', '.join(case.peers)}")

    facts = machine()
    skipped = dict(case.skip(size)) if case.skip else {}
    if impossible := sorted(set(peers or ()) & skipped.keys()):
        raise UserError(
            f"{impossible[0]}: {skipped[impossible[0]]}",
            where=f"bench {case.name}",
            fix="see the reason, or name another --peer",
        )
    if peers is not None:
        skipped |= {name: "not asked for" for name in case.peers if name not in peers}
    sides = {"ours": case.ours, **{name: peer for name, peer in case.peers.items() if name not in skipped}}
    with ExitStack() as cleanup:
        scratch = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix=f"bench-{case.name}-")))
        log(f"{case.name}: preparing the input")
        data = case.prepare(Setup(size, workers, scratch, input, cleanup))
        checked, peaks = _check(case, sides, data, log)
        if not case.check_is_warm_up:
            for name, side in sides.items():
                _, peaks[name] = _sampled(name, side, data)
        timed = _time(sides, data, runs, keep=case.details is not None and case.keeps_outputs, log=log)
        more = case.details(data, timed) if case.details else {}
        measured = case.measure_input(data) if case.measure_input else {}

    results = {n: {**_summary(timed[n]), "peak_rss_bytes": peaks[n], **more.get(n, {})} for n in sides}
    return {
        "case": case.name,
        "size": {case.size_of: size, **measured},
        "workers": workers,
        "checked": checked,
        "ours": results.pop("ours"),
        "peers": results,
        "skipped": skipped,
        "ratio": {name: ratio(timed["ours"], timed[name]) for name in sides if name != "ours"},
        "memory_counted": "peak of the PSS of all processes together, sampled every 0.2 s in the warm-up run",
        "machine": facts,
    }


def ratio(ours: Sequence[Timed], peer: Sequence[Timed]) -> float:
    """Median over pairs of ours over peer, wall time: below 1 is faster. Pairs share what else the machine did."""
    return round(statistics.median(a.wall_s / b.wall_s for a, b in zip(ours, peer, strict=True)), 4)


def median_run(runs: Sequence[Timed]) -> Timed:
    """The run whose wall time is the (lower) median: its parts add up, as medians of parts would not."""
    return sorted(runs, key=lambda run: run.wall_s)[(len(runs) - 1) // 2]


def _check(case: Case, sides: Mapping[str, Any], data: Any, log: Callable[[str], None]) -> tuple[str, dict[str, int]]:
    outputs, peaks = {}, {}
    for name, side in sides.items():
        log(f"{case.name}: one run of {name} to check")
        outputs[name], peaks[name] = _sampled(name, side, data)
    try:
        checked = case.check(data, outputs.pop("ours"), outputs)
    except AssertionError as error:
        raise RunError(f"the outputs differ, so nothing was timed: {error}", where=f"bench {case.name}") from error
    log(f"{case.name}: {checked}")
    return checked, peaks


def _sampled(name: str, side: Callable[[Any], Any], data: Any) -> tuple[Any, int]:
    # Ray's idle daemons are part of what we cost, and no part of what a peer costs.
    with PeakMemory(count_earlier_children=name == "ours") as memory:
        output = side(data)
    return output.output if isinstance(output, SelfTimed) else output, memory.peak_bytes


def _time(
    sides: Mapping[str, Callable[[Any], Any]], data: Any, runs: int, *, keep: bool, log: Callable[[str], None]
) -> dict[str, list[Timed]]:
    timed: dict[str, list[Timed]] = {name: [] for name in sides}
    for index in range(runs):
        for name, side in sides.items():
            gc.collect()
            started = time.perf_counter()
            output = side(data)
            wall_s = time.perf_counter() - started
            notes: Mapping[str, float] = {}
            if isinstance(output, SelfTimed):
                wall_s, output, notes = output.wall_s, output.output, output.notes
            timed[name].append(Timed(wall_s, output if keep else None, notes))
            del output
            log(f"run {index + 1} of {runs}, {name}: {wall_s:.3f} s")
    return timed


def _summary(runs: Sequence[Timed]) -> dict[str, Any]:
    walls = [run.wall_s for run in runs]
    return {
        "median_s": round(statistics.median(walls), 6),
        "min_s": round(min(walls), 6),
        "max_s": round(max(walls), 6),
        "runs": len(walls),
        **{name: round(statistics.median(run.notes[name] for run in runs), 6) for name in runs[0].notes},
    }

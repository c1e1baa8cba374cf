"""A text model trained in parallel: each setting of tasks/deep on two ranks, against one process with two threads.

In: `--size` synthetic rows a step, 128 tokens each; an encoder of four layers, width 256, float32 unless it says else.
Out: the loss of every step. `ours` is two replicas (DDP); the others are ZeRO 1 to 3, two slices, two stages, bfloat16,
four micro-batches, activation checkpointing, and one process with one thread and with two.

Ranks take their own time, of the steps after two to warm up. Losses of float32 must be one process's within 1e-5, those
of bfloat16 within 0.02. Beside the harness's numbers each side has tokens a second, CPU seconds, bytes sent a step
and rank (of the loopback device: nothing else may run), memory by rank and kind, the arithmetic of both
(benchmarks/deep_arithmetic.py), and for the pipelines the share of a step that stages wait: as measured, of equal
stages that do nothing else, and of stages that take as long as those measured.

    raymill bench deep [--size N] [--runs 3] [--peer zero_3] [--json FILE|-]
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks import deep_arithmetic
from benchmarks.deep_ranks import WARM_UP, Way, measure
from benchmarks.harness import Case, SelfTimed, Setup, Timed
from benchmarks.machine import needs_torch
from tasks.core.errors import UserError
from tasks.deep.settings import EncoderConfig, ParallelConfig

RANKS, STEPS, MICRO_BATCHES = 2, 10, 8
MODEL = EncoderConfig(vocabulary=4096, positions=128, width=256, heads=8, layers=4, hidden=1024)
FLOAT32, BFLOAT16 = 1e-5, 0.02


@dataclass(frozen=True)
class Job:
    rows: int


@dataclass(frozen=True)
class Side:
    """A setting, on so many ranks of so many threads."""

    parallel: ParallelConfig
    ranks: int = RANKS
    threads: int = 1
    accumulate: int = 1
    precision: str = "float32"
    recompute: bool = False

    def way(self, rows: int) -> Way:
        return Way(MODEL, rows, STEPS, self.parallel, self.accumulate, self.precision, self.recompute)


PLAIN = ParallelConfig()
SIDES = {
    "ours": Side(PLAIN),
    "two_threads": Side(PLAIN, ranks=1, threads=RANKS),
    "one_thread": Side(PLAIN, ranks=1),
    "zero_1": Side(ParallelConfig(zero=1)),
    "zero_2": Side(ParallelConfig(zero=2)),
    "zero_3": Side(ParallelConfig(zero=3)),
    "tensor": Side(ParallelConfig(tensor=RANKS)),
    "gpipe": Side(ParallelConfig(pipeline=RANKS, schedule="gpipe", micro_batches=MICRO_BATCHES)),
    "one_f_one_b": Side(ParallelConfig(pipeline=RANKS, micro_batches=MICRO_BATCHES)),
    "accumulate_4": Side(PLAIN, accumulate=4),
    "recompute": Side(PLAIN, recompute=True),
    "bfloat16": Side(PLAIN, precision="bfloat16"),
}


def prepare(setup: Setup) -> Job:
    needs_torch("deep", "deep")
    if setup.size < MICRO_BATCHES:
        raise UserError(f"{setup.size} rows a step", where="bench deep", fix=f"at least {MICRO_BATCHES}: --size 32")
    return Job(setup.size)


def run(side: Side, job: Job) -> SelfTimed:
    from tasks.deep.ranks import run_ranks

    ranks = run_ranks(measure, side.ranks, side.way(job.rows), threads=side.threads, timeout_s=900)
    return SelfTimed(max(rank["wall_s"] for rank in ranks), ranks)


def check(job: Job, ours: Any, peers: Mapping[str, Any]) -> str:
    outputs = {"ours": ours, **peers}
    one = outputs["two_threads"] if "two_threads" in outputs else run(SIDES["two_threads"], job).output
    expected = one[0]["losses"]
    found = []
    for name, ranks in outputs.items():
        apart = max(abs(a - b) for rank in ranks for a, b in zip(rank["losses"], expected, strict=True))
        limit = BFLOAT16 if SIDES[name].precision == "bfloat16" else FLOAT32
        assert apart <= limit, f"a loss of {name} is {apart:.1e} from one process's"
        found.append(f"{name} {apart:.1e}")
    return f"losses of {STEPS + WARM_UP} steps are those of one process, apart by: {', '.join(found)}"


def details(job: Job, runs: Mapping[str, Sequence[Timed]]) -> dict[str, dict[str, Any]]:
    return {name: _details(SIDES[name], job, [run.output for run in timed]) for name, timed in runs.items()}


def _details(side: Side, job: Job, runs: Sequence[list[dict[str, Any]]]) -> dict[str, Any]:
    first = runs[0]
    speeds = [ranks[0]["tokens"] / max(rank["wall_s"] for rank in ranks) for ranks in runs]
    more: dict[str, Any] = {
        "tokens_per_s": round(statistics.median(speeds)),
        "cpu_s": round(statistics.median(sum(rank["cpu_s"] for rank in ranks) for ranks in runs), 3),
        "sent_bytes_a_rank_and_step": round(
            statistics.median(max(rank["sent_bytes"] for rank in ranks) / side.ranks for ranks in runs)
        ),
        "sent_bytes_by_arithmetic": round(_sent(side, job)),
        "memory_by_rank": [rank["memory"] for rank in first],
    }
    if side.parallel.tensor == side.parallel.pipeline == 1:
        held = deep_arithmetic.zero_bytes(_parameters(), _replicas(side), side.parallel.zero)
        more["memory_by_arithmetic"] = {kind: round(count) for kind, count in held.items()}
    if side.parallel.pipeline > 1:
        shares = [statistics.mean(rank["bubble"] for rank in ranks) for ranks in runs]
        more["bubble"] = round(statistics.median(shares), 4)
        more["bubble_by_arithmetic"] = deep_arithmetic.bubble(side.parallel.pipeline, side.parallel.micro_batches)
        more["bubble_of_such_stages"] = round(statistics.median(_of_such_stages(side, ranks) for ranks in runs), 4)
        more["pass_s_by_stage"] = [rank["pass_s"] for rank in first]
    return more


def _of_such_stages(side: Side, ranks: list[dict[str, Any]]) -> float:
    forward, backward = ([rank["pass_s"][kind] for rank in ranks] for kind in ("forward", "backward"))
    return deep_arithmetic.bubble_of(side.parallel.schedule, forward, backward, side.parallel.micro_batches)


def _replicas(side: Side) -> int:
    return side.ranks // (side.parallel.tensor * side.parallel.pipeline)


def _parameters() -> int:
    layer = 4 * MODEL.width**2 + 2 * MODEL.width * MODEL.hidden + 4 * MODEL.width
    ends = (MODEL.vocabulary + MODEL.positions) * MODEL.width + 2 * MODEL.width + (MODEL.width + 1) * MODEL.outputs
    return MODEL.layers * layer + ends


def _sent(side: Side, job: Job) -> float:
    tokens = job.rows * MODEL.positions
    if side.parallel.tensor > 1:
        return deep_arithmetic.tensor_bytes(MODEL.layers, tokens, MODEL.width, side.parallel.tensor)
    if side.parallel.pipeline > 1:
        return 4 * tokens * MODEL.width  # activations one way, their gradients the other
    return deep_arithmetic.data_bytes(_parameters(), _replicas(side), side.parallel.zero, gloo=True)


def _side(name: str) -> Callable[[Any], SelfTimed]:
    return partial(run, SIDES[name])


CASE = Case(
    name="deep",
    size_of="rows a step",
    default_size=32,
    prepare=prepare,
    ours=_side("ours"),
    peers={name: _side(name) for name in SIDES if name != "ours"},
    check=check,
    details=details,
    check_is_warm_up=True,
)

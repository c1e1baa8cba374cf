"""Our schedules for CPUs go through a stage's passes in torch's order, and ask for everything first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra deep: torch")

from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe  # noqa: E402

from tasks.deep.passes import BACKWARD, FORWARD, passes  # noqa: E402
from tasks.deep.ranks import run_ranks  # noqa: E402
from tasks.deep.settings import ParallelConfig  # noqa: E402
from tests.support.text_models import TRAINING, Run, train_one  # noqa: E402


@pytest.mark.parametrize(("schedule", "theirs"), [("gpipe", ScheduleGPipe), ("1f1b", Schedule1F1B)])
@pytest.mark.parametrize(("stages", "micro_batches"), [(1, 3), (2, 2), (2, 8), (3, 5), (4, 6)])
def test_passes_are_in_torchs_order(schedule: str, theirs: Any, stages: int, micro_batches: int) -> None:
    """Each kind of pass goes through micro-batches in order (test_passes.py); torch numbers those of 1F1B wrongly here,
    in what it only prints."""
    of = SimpleNamespace(_num_stages=stages, _n_microbatches=micro_batches)
    names = {"FORWARD": FORWARD, "FULL_BACKWARD": BACKWARD}
    for stage, actions in theirs._get_pipeline_order(of).items():
        kinds = [action.computation_type.name for action in actions if action]
        order = [names[kind] for kind in kinds if kind in names]
        assert [kind for kind, _ in passes(schedule, stage, stages, micro_batches)] == order


def asked(schedule: str) -> list[str]:
    """What this rank's stage did in a step: R for asking for a tensor, F and B for passes."""
    done: list[str] = []
    for name, mark in (
        ("get_fwd_recv_ops", "R"),
        ("get_bwd_recv_ops", "R"),
        ("forward_one_chunk", "F"),
        ("backward_one_chunk", "B"),
    ):
        setattr(PipelineStage, name, noting(getattr(PipelineStage, name), mark, done))
    parallel = ParallelConfig(pipeline=2, schedule=schedule, micro_batches=4)  # type: ignore[arg-type]
    train_one(Run(parallel, TRAINING.model_copy(update={"steps": 1, "evaluate_every": 0})))
    return done


def noting(plain: Any, mark: str, done: list[str]) -> Any:
    def noted(*given: Any, **options: Any) -> Any:
        found = plain(*given, **options)
        if mark != "R" or found:
            done.append(mark)
        return found

    return noted


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_a_stage_asks_for_all_that_a_step_brings_before_it_computes(schedule: str) -> None:
    for done in run_ranks(asked, 2, schedule):
        assert sorted(done) == ["B"] * 4 + ["F"] * 4 + ["R"] * 4
        assert done[:4] == ["R"] * 4

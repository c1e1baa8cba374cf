"""What the case deep measures of memory is what arithmetic says; the model of a cluster behaves as its parts do."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import deep_arithmetic, deep_ranks
from benchmarks.cases import deep
from benchmarks.deep_arithmetic import Cluster, Model, bubble, bubble_of, step_seconds, zero_bytes
from benchmarks.deep_ranks import WARM_UP, Way, measure
from benchmarks.harness import run_case
from tasks.deep.settings import EncoderConfig, ParallelConfig

TINY = EncoderConfig(vocabulary=64, positions=8, width=32, heads=4, layers=4, hidden=64)


def measure_all(ways: list[Way]) -> list[dict[str, Any]]:
    return [measure(way) for way in ways]


def test_memory_by_rank_is_what_the_arithmetic_says() -> None:
    pytest.importorskip("torch", reason="needs the extra deep: torch")
    from tasks.deep.encoder import build
    from tasks.deep.ranks import run_ranks

    settings = [ParallelConfig(zero=zero) for zero in (0, 1, 2, 3)]  # type: ignore[arg-type]
    settings += [ParallelConfig(pipeline=2, micro_batches=8, schedule=s) for s in ("gpipe", "1f1b")]  # type: ignore[arg-type]
    settings.append(ParallelConfig(tensor=2))
    ranks = run_ranks(measure_all, 2, [Way(TINY, 16, 2, parallel) for parallel in settings])
    parameters = sum(p.numel() for p in build(TINY, 0).parameters())
    for zero in (0, 1, 2, 3):
        expected = zero_bytes(parameters, 2, zero)
        for kind, count in expected.items():
            held = [rank[zero]["memory"][kind] for rank in ranks]
            # Parts differ by a row, and each parameter's step count is four bytes more.
            assert max(held) == pytest.approx(count, rel=0.12), f"ZeRO {zero}, {kind}"
    gpipe, one_f_one_b = (ranks[1][index]["memory"]["activations"] for index in (4, 5))
    assert one_f_one_b < gpipe / 2  # the last stage holds one micro-batch instead of eight
    for index in (4, 5):
        assert all(0 < rank[index]["bubble"] < 1 for rank in ranks)
    losses = [rank[index]["losses"] for rank in ranks for index in range(len(settings))]
    assert len(losses[0]) == 2 + WARM_UP
    assert all(other == pytest.approx(losses[0], abs=1e-5) for other in losses)


@pytest.mark.nightly
def test_the_case_checks_and_tells_all_of_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="needs the extra deep: torch")
    monkeypatch.setattr(deep, "MODEL", TINY)
    monkeypatch.setattr(deep, "STEPS", 2)
    result = run_case("deep", size=16, runs=1)
    assert "are those of one process" in result["checked"]
    sides = {"ours": result["ours"], **result["peers"]}
    assert set(sides) == set(deep.SIDES)
    for name, numbers in sides.items():
        assert numbers["tokens_per_s"] > 0, name
        assert len(numbers["memory_by_rank"]) == deep.SIDES[name].ranks
        pipeline = name in ("gpipe", "one_f_one_b")
        assert ("bubble" in numbers) is ("bubble_of_such_stages" in numbers) is pipeline
    held = {name: numbers["memory_by_rank"][0] for name, numbers in sides.items()}
    assert held["recompute"]["activations"] < held["ours"]["activations"] / 2
    assert held["accumulate_4"]["activations"] < held["ours"]["activations"] / 2


def test_a_bubble_shrinks_with_micro_batches_and_grows_with_stages() -> None:
    assert bubble(1, 8) == 0
    assert bubble(2, 8) == pytest.approx(1 / 9)
    assert bubble(4, 8) > bubble(2, 8) > bubble(2, 32)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("stages", "micro_batches"), [(1, 3), (2, 2), (2, 8), (4, 8)])
def test_equal_stages_wait_as_the_formula_says(schedule: str, stages: int, micro_batches: int) -> None:
    found = bubble_of(schedule, [1.0] * stages, [2.0] * stages, micro_batches)
    assert found == pytest.approx(bubble(stages, micro_batches))


def test_unequal_stages_wait_more_with_gpipe_whose_differences_do_not_cancel() -> None:
    forward, backward = [1.0, 1.1], [2.2, 2.0]  # in 1F1B a stage's slow pass meets the other's fast one
    assert bubble_of("gpipe", forward, backward, 8) == pytest.approx(0.143, abs=0.001)
    assert bubble_of("1f1b", forward, backward, 8) == pytest.approx(0.119, abs=0.001)


def test_handing_over_costs_gpipe_more_whose_waits_are_one_after_the_other() -> None:
    gpipe, one_f_one_b = (bubble_of(kind, [1.0] * 2, [2.0] * 2, 8, handover=0.1) for kind in ("gpipe", "1f1b"))
    # A step of 27: with eight waits forward and eight backward in GPipe, with nine in 1F1B.
    assert gpipe == pytest.approx(1 - 24 / (27 + 16 * 0.1))
    assert one_f_one_b == pytest.approx(1 - 24 / (27 + 9 * 0.1))


def test_what_the_last_stage_waits_after_its_own_last_pass_is_in_its_bubble(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="needs the extra deep: torch")
    from torch.distributed.pipelining import PipelineStage

    from tasks.deep.pipeline_parallel import Pipeline

    clock = [0.0]

    def takes(seconds: float) -> Any:
        return lambda *_: clock.__setitem__(0, clock[0] + seconds)

    def run(stage: Any) -> None:
        """The last of two stages, 3 micro-batches: it waits for the first forward pass."""
        takes(1.0)()
        for _ in range(3):
            PipelineStage.forward_one_chunk(stage)
        for _ in range(3):
            PipelineStage.backward_one_chunk(stage)

    monkeypatch.setattr(deep_ranks.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(PipelineStage, "forward_one_chunk", takes(1.0))
    monkeypatch.setattr(PipelineStage, "backward_one_chunk", takes(2.0))
    monkeypatch.setattr(Pipeline, "run", run)
    with deep_ranks.waiting(takes(2.0)) as busy:  # until the first stage has gone back, too
        for _ in range(WARM_UP + 2):
            Pipeline.run(None)
    assert busy.share() == pytest.approx(bubble(2, 3))
    assert busy.passes(3) == {"forward": 1.0, "backward": 2.0}


def test_a_step_on_more_gpus_is_shorter_but_less_efficient() -> None:
    counts = [8, 64, 512, 1024]
    seconds = [step_seconds(gpus, 1, 1, Model(), Cluster())["all"] for gpus in counts]
    assert seconds == sorted(seconds, reverse=True)
    speed = [a * g for a, g in zip(seconds, counts, strict=True)]
    assert speed == sorted(speed)
    faster = step_seconds(1024, 1, 1, Model(), Cluster(network=100e9))
    assert faster["gradients"] < step_seconds(1024, 1, 1, Model(), Cluster())["gradients"]
    with pytest.raises(ValueError, match="do not fit"):
        step_seconds(8, 16, 1, Model(), Cluster())


def test_what_is_sent_is_less_with_slices_the_fewer_tokens_there_are() -> None:
    assert deep_arithmetic.data_bytes(1000, 2, 0) == 4000
    assert deep_arithmetic.data_bytes(1000, 4, 3) == 3 * 3 / 4 * 4000
    assert [deep_arithmetic.data_bytes(1000, 2, zero, gloo=True) for zero in range(4)] == [4000, 6000, 6000, 8000]
    assert deep_arithmetic.tensor_bytes(2, 100, 8, 2) == 4 * 2 * 1 * 4 * 800

"""What the case deep measures of memory is what arithmetic says; the model of a cluster behaves as its parts do."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import deep_arithmetic
from benchmarks.cases import deep
from benchmarks.deep_arithmetic import Cluster, Model, bubble, step_seconds, zero_bytes
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
        assert ("bubble" in numbers) is (name in ("gpipe", "one_f_one_b"))
    held = {name: numbers["memory_by_rank"][0] for name, numbers in sides.items()}
    assert held["recompute"]["activations"] < held["ours"]["activations"] / 2
    assert held["accumulate_4"]["activations"] < held["ours"]["activations"] / 2


def test_a_bubble_shrinks_with_micro_batches_and_grows_with_stages() -> None:
    assert bubble(1, 8) == 0
    assert bubble(2, 8) == pytest.approx(1 / 9)
    assert bubble(4, 8) > bubble(2, 8) > bubble(2, 32)


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
    assert deep_arithmetic.tensor_bytes(2, 100, 8, 2) == 4 * 2 * 1 * 4 * 800

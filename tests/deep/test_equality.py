"""Every way to spread a model over ranks trains what one process trains."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the extra deep: torch")

from tasks.deep.ranks import run_ranks  # noqa: E402
from tasks.deep.settings import ParallelConfig  # noqa: E402
from tests.support.text_models import MODEL, TRAINING, Outcome, Run, all_gradients_sent, train_all  # noqa: E402

# Float32 sums in another order, through eight steps of Adam.
LOSS, NORM, WEIGHT = 2e-6, 2e-6, 2e-5

ACCUMULATE = TRAINING.model_copy(update={"accumulate": 3})  # of 10 rows, 4, 4 and 2; of 7 rows, 3, 3 and 1
RECOMPUTE = TRAINING.model_copy(update={"recompute": True})
NEXT_TOKEN = MODEL.model_copy(update={"objective": "next-token"})


def way(**parallel: object) -> Run:
    return Run(ParallelConfig(**parallel))  # type: ignore[arg-type]


WAYS = {
    1: {
        "micro-batches": Run(training=ACCUMULATE),
        "activation checkpointing": Run(training=RECOMPUTE),
        "ZeRO of one replica": way(zero=3),
    },
    2: {
        "data": way(),
        "data, small buckets": way(bucket_mb=0.01),
        "data, micro-batches": way().with_(training=ACCUMULATE),
        "ZeRO 1": way(zero=1),
        "ZeRO 2, micro-batches": way(zero=2).with_(training=ACCUMULATE),
        "ZeRO 3, activation checkpointing": way(zero=3).with_(training=RECOMPUTE),
        "tensor": way(tensor=2),
        "tensor, activation checkpointing": way(tensor=2).with_(training=RECOMPUTE),
        "GPipe": way(pipeline=2, schedule="gpipe"),
        "1F1B": way(pipeline=2),
        "1F1B, activation checkpointing": way(pipeline=2, micro_batches=5).with_(training=RECOMPUTE),
        "next token, ZeRO 3": way(zero=3).with_(model=NEXT_TOKEN),
        "next token, 1F1B": way(pipeline=2).with_(model=NEXT_TOKEN),
    },
    3: {
        "data": way(),
        "ZeRO 1": way(zero=1),
        "ZeRO 3": way(zero=3),
        "tensor": way(tensor=3),
        "1F1B": way(pipeline=3),
    },
    4: {
        "ZeRO 3": way(zero=3),
        "tensor": way(tensor=4),
        "GPipe": way(pipeline=4, schedule="gpipe", micro_batches=6),
        "1F1B": way(pipeline=4, micro_batches=6),
        "data and tensor": way(tensor=2),
        "ZeRO 3 and tensor": way(tensor=2, zero=3),
        "data and pipeline": way(pipeline=2),
        "ZeRO 1 and pipeline": way(pipeline=2, zero=1),
        "ZeRO 2 and pipeline": way(pipeline=2, zero=2),
        "tensor and pipeline": way(pipeline=2, tensor=2),
    },
}


@pytest.fixture(scope="module")
def one_process() -> dict[str, Outcome]:
    """What each objective's training gives in one process, without micro-batches."""
    [both] = run_ranks(train_all, 1, [Run(), Run(model=NEXT_TOKEN)])
    return dict(zip(("regression", "next-token"), both, strict=True))


@pytest.mark.parametrize("world_size", WAYS)
def test_losses_and_weights_are_those_of_one_process(world_size: int, one_process: dict[str, Outcome]) -> None:
    ways = WAYS[world_size]
    ranks = run_ranks(train_all, world_size, list(ways.values()))
    for index, (name, run) in enumerate(ways.items()):
        expected = one_process[run.model.objective]
        for rank, results in enumerate(ranks):
            got = results[index]
            assert got.losses == pytest.approx(expected.losses, abs=LOSS), f"{name}, rank {rank}"
            assert got.norms == pytest.approx(expected.norms, rel=NORM), f"{name}, rank {rank}"
            assert got.best_loss == pytest.approx(expected.best_loss, abs=LOSS), f"{name}, rank {rank}"
            assert got.best_step == expected.best_step, name
        weights = ranks[0][index].weights
        assert weights.keys() == expected.weights.keys(), name
        apart = {k: float((weights[k] - w).abs().max()) for k, w in expected.weights.items()}
        assert max(apart.values()) <= WEIGHT, f"{name}: {max(apart, key=apart.__getitem__)}"
        assert all(results[index].weights == {} for results in ranks[1:]), name


def test_gradients_are_sent_once_a_step_however_many_micro_batches_it_has() -> None:
    cases = [(zero, accumulate) for zero in (0, 2, 3) for accumulate in (1, 3)]
    for sent in run_ranks(all_gradients_sent, 2, cases, 2):
        once, thrice = sent[::2], sent[1::2]
        assert once == thrice
        assert all(count >= 2 for count in once)


@pytest.mark.nightly
def test_fifty_steps_of_zero_have_the_losses_of_data_parallel() -> None:
    long = TRAINING.model_copy(update={"steps": 50})
    ranks = run_ranks(train_all, 2, [way(zero=zero).with_(training=long) for zero in (0, 1, 2, 3)])
    for plain, *shared in ranks:
        assert len(plain.losses) == 50
        assert all(trained.losses == pytest.approx(plain.losses, abs=1e-5) for trained in shared)


def test_training_lowers_the_loss(one_process: dict[str, Outcome]) -> None:
    """Equal but wrong gradients would be equal, too."""
    for trained in one_process.values():
        assert min(trained.losses[4:]) < trained.losses[0]

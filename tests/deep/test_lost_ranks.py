"""A rank that dies is named and nothing hangs; training goes on from the last checkpoint to the same weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the extra deep: torch")

from tasks.core.errors import InputError, RankLost, RunError  # noqa: E402
from tasks.deep.loop import Trained  # noqa: E402
from tasks.deep.ranks import run_ranks  # noqa: E402
from tasks.deep.settings import ParallelConfig  # noqa: E402
from tests.support.text_models import MODEL, TRAINING, Run, train_all, train_one  # noqa: E402

EVERY_2 = TRAINING.model_copy(update={"checkpoint_every": 2})
SKIP, STOP = (TRAINING.model_copy(update={"on_nan": what}) for what in ("skip", "stop"))
SHARED = ParallelConfig(zero=1)
WAYS = {
    "data": ParallelConfig(),
    "ZeRO 1": SHARED,
    "ZeRO 3": ParallelConfig(zero=3),
    "tensor": ParallelConfig(tensor=2),
    "pipeline": ParallelConfig(pipeline=2),
}


def same(a: Trained, b: Trained) -> bool:
    return a.losses == b.losses and all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Trained]:
    runs = [Run(parallel, EVERY_2) for parallel in WAYS.values()]
    return dict(zip(WAYS, run_ranks(train_all, 2, runs)[0], strict=True))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("way", "point", "resumes"),
    [
        ("data", "deep-1:forward:5", 4),
        ("ZeRO 1", "deep-1:backward:5", 4),
        ("ZeRO 3", "deep-1:optimizer step:5", 4),
        ("tensor", "deep-1:forward:5", 4),
        ("pipeline", "deep-1:forward and backward:5", 4),
        ("data", "deep-0:checkpoint:6", 4),
        ("ZeRO 1", "deep-0:checkpoint-json:6", 4),
    ],
)
def test_a_killed_rank_is_named_and_training_resumes_to_the_same_bits(
    way: str, point: str, resumes: int, undisturbed: dict[str, Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(WAYS[way], EVERY_2, folder=tmp_path)
    monkeypatch.setenv("RAYMILL_KILL_AT", point)
    with pytest.raises(RankLost, match=rf"rank {point[5]} of 2 was killed by SIGKILL"):
        run_ranks(train_one, 2, run, timeout_s=60)
    monkeypatch.delenv("RAYMILL_KILL_AT")
    trained, _ = run_ranks(train_one, 2, run)
    assert trained.resumed == resumes
    assert same(trained, undisturbed[way])


def test_a_checkpoint_of_any_plan_goes_on_in_one_process(undisturbed: dict[str, Trained], tmp_path: Path) -> None:
    by_ranks = {2: WAYS, 4: {"ZeRO 3 and tensor": ParallelConfig(tensor=2, zero=3)}}
    goes_on: dict[str, list[Trained]] = {}
    alone = []
    for ranks, ways in by_ranks.items():
        runs = [Run(parallel, EVERY_2, folder=tmp_path / way) for way, parallel in ways.items()]
        run_ranks(train_all, ranks, runs)
        for way in ways:
            for newest in (tmp_path / way).glob("step-00000008.*"):
                newest.unlink()
            alone.append(Run(training=EVERY_2, folder=shutil.copytree(tmp_path / way, tmp_path / f"copy of {way}")))
        goes_on |= {way: [again] for way, again in zip(ways, run_ranks(train_all, ranks, runs)[0], strict=True)}
    for again, trained in zip(goes_on.values(), run_ranks(train_all, 1, alone)[0], strict=True):
        again.append(trained)
    expected = undisturbed["data"]
    for way, both in goes_on.items():
        for trained in both:
            assert trained.resumed == 6, way
            assert trained.losses == pytest.approx(expected.losses, abs=2e-6), way
            apart = {n: float((w - trained.weights[n]).abs().max()) for n, w in expected.weights.items()}
            assert max(apart.values()) < 2e-5, way


@pytest.mark.parametrize("replicas", [2, 3])
def test_replicas_resume_to_the_same_bits_with_buckets_of_many_parameters(replicas: int, tmp_path: Path) -> None:
    larger = MODEL.model_copy(update={"vocabulary": 6000, "width": 96})
    run = Run(training=EVERY_2, model=larger, folder=tmp_path)
    undisturbed = run_ranks(train_one, replicas, run)[0]
    for newest in tmp_path.glob("step-00000008.*"):
        newest.unlink()
    again = run_ranks(train_one, replicas, run)[0]
    assert again.resumed == 6
    assert same(again, undisturbed)


def test_a_step_that_is_not_finite_is_skipped_and_told_or_ends_training() -> None:
    for trained in run_ranks(train_one, 2, Run(SHARED, SKIP, spoilt_step=3)):
        assert trained.skipped == 1
        assert trained.steps == 8
        assert [step for step, loss in enumerate(trained.losses) if loss != loss] == [3]
    with pytest.raises(RunError, match="the loss is not finite"):
        run_ranks(train_one, 2, Run(SHARED, STOP, spoilt_step=3))


def test_a_checkpoint_of_another_config_is_refused_naming_what_differs(tmp_path: Path) -> None:
    run_ranks(train_one, 1, Run(training=EVERY_2, folder=tmp_path))
    other = EVERY_2.model_copy(update={"learning_rate": 0.1})
    with pytest.raises(InputError, match=r"training.learning_rate was 0.003, is 0.1"):
        run_ranks(train_one, 2, Run(training=other, folder=tmp_path))


def test_a_torn_checkpoint_is_passed_over(undisturbed: dict[str, Trained], tmp_path: Path) -> None:
    run = Run(WAYS["data"], EVERY_2, folder=tmp_path)
    run_ranks(train_one, 2, run)
    torn = tmp_path / "step-00000008.safetensors"
    torn.write_bytes(torn.read_bytes()[:-1])
    trained, _ = run_ranks(train_one, 2, run)
    assert trained.resumed == 6
    assert same(trained, undisturbed["data"])


@pytest.mark.parametrize(
    ("world_size", "run", "says"),
    [
        (3, Run(ParallelConfig(data=2)), "3 ranks cannot be 2 replicas"),
        (3, Run(ParallelConfig(tensor=2)), "3 ranks cannot be 1 replicas x 2 slices"),
        (2, Run(ParallelConfig(pipeline=4)), "2 ranks cannot be"),
        (4, Run(ParallelConfig(tensor=2, zero=1)), "ZeRO 1 does not know sliced parameters"),
        (4, Run(rows=3), "3 rows in steps of 10 for 4 replicas"),
        (1, Run(training=TRAINING.model_copy(update={"precision": "float16"})), "float16 trains on a GPU only"),
        (2, Run(WAYS["pipeline"], TRAINING.model_copy(update={"accumulate": 2})), "accumulate=2 is not for a pipeline"),
    ],
    ids=["replicas", "slices", "stages", "combination", "rows", "float16", "accumulate"],
)
def test_what_cannot_be_is_an_error_that_says_what_to_do(world_size: int, run: Run, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        run_ranks(train_one, world_size, run)
    assert error.value.fix

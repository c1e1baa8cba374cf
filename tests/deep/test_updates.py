"""Learning rates, clipping and early stopping in one process; what a model refuses."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="needs the extra deep: torch")

from tasks.core.errors import InputError  # noqa: E402
from tasks.deep import updates  # noqa: E402
from tasks.deep.batches import ShuffledRows  # noqa: E402
from tasks.deep.encoder import build, flops_per_token  # noqa: E402
from tasks.deep.loop import train  # noqa: E402
from tasks.deep.losses import squared_error  # noqa: E402
from tasks.deep.plan import plan  # noqa: E402
from tasks.deep.ranks import run_ranks  # noqa: E402
from tasks.deep.settings import TrainingConfig  # noqa: E402
from tests.support.text_models import MODEL, TRAINING, Run, made_rows, train_one  # noqa: E402


@pytest.mark.parametrize(("decay", "half_way", "last"), [("cosine", 0.5, 0.0), ("linear", 0.5, 0.0), ("none", 1, 1)])
def test_the_learning_rate_rises_in_a_line_and_decays(decay: str, half_way: float, last: float) -> None:
    config = TrainingConfig(steps=110, warm_up=10, learning_rate=1.0, decay=decay)  # type: ignore[arg-type]
    rates = [updates.learning_rate(config, step) for step in range(111)]
    assert rates[:11] == pytest.approx([*(i / 10 for i in range(1, 11)), 1.0])
    assert rates[60] == pytest.approx(half_way)
    assert rates[110] == pytest.approx(last, abs=1e-12)


def test_gradients_are_clipped_to_the_norm_of_all_of_them() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(n)) for n in (3, 5)]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 2.0)
    norm = updates.gradient_norm(parameters, plan())
    assert norm == pytest.approx(math.sqrt(8 * 4))
    updates.clip(parameters, norm, 1.0)
    assert updates.gradient_norm(parameters, plan()) == pytest.approx(1.0)


def test_training_stops_early_and_keeps_the_best_weights() -> None:
    config = TRAINING.model_copy(update={"steps": 100, "evaluate_every": 2, "patience": 2, "learning_rate": 0.3})
    [trained] = run_ranks(train_one, 1, Run(training=config))
    assert trained.stopped_early
    assert trained.steps == trained.best_step + 4
    shorter = config.model_copy(update={"patience": 50})
    [again] = run_ranks(train_one, 1, Run(training=shorter))
    assert again.best_loss <= trained.best_loss


def test_a_first_evaluation_that_is_not_finite_is_not_the_best_one() -> None:
    config = TRAINING.model_copy(update={"steps": 4, "evaluate_every": 2})
    rows = ShuffledRows(made_rows(), 10)
    spoilt = {**made_rows(4), "target": torch.full((4, 2), torch.nan)}
    answers = iter([[spoilt], [made_rows(4)]])
    trained = train(build(MODEL, 0), rows, config, loss=squared_error, validation=lambda: next(answers))
    assert trained.best_step == 4
    assert trained.best_loss is not None
    assert math.isfinite(trained.best_loss)


def test_the_model_is_the_same_for_a_seed_and_padding_does_not_change_its_outputs() -> None:
    model, other = build(MODEL, 3), build(MODEL, 3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    rows = made_rows(6)
    lengths = rows["mask"].sum(1)
    whole = model(rows["tokens"], rows["mask"])
    for row, length in enumerate(lengths.tolist()):
        short = model(rows["tokens"][row : row + 1, :length], rows["mask"][row : row + 1, :length])
        assert torch.allclose(short[0], whole[row], atol=1e-5)


def test_the_causal_model_does_not_see_later_tokens() -> None:
    model = build(MODEL.model_copy(update={"objective": "next-token"}), 0)
    rows = made_rows(2)
    before = model(rows["tokens"], rows["mask"])
    rows["tokens"][:, 5:] = 0
    after = model(rows["tokens"], rows["mask"])
    assert torch.allclose(before[:, :5], after[:, :5], atol=1e-6)
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_rows_longer_than_the_model_knows_are_refused() -> None:
    with pytest.raises(InputError, match="9 tokens in a row, the model has 8 positions"):
        build(MODEL, 0)(torch.zeros(1, 9, dtype=torch.int64), torch.ones(1, 9, dtype=torch.bool))


def test_operations_are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model, length, rows = build(MODEL, 0), 8, 4
    counter = FlopCounterMode(display=False)
    with counter:
        model(torch.zeros(rows, length, dtype=torch.int64), torch.ones(rows, length, dtype=torch.bool)).sum().backward()
    counted = counter.get_total_flops() / (rows * length)
    assert counted == pytest.approx(flops_per_token(MODEL, length), rel=0.2)

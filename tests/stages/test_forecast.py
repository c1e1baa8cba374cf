"""The forecast of trials: its Gaussian process against closed forms, what it suggests, and what it stops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.algorithms.gaussian_process import GaussianProcess, Kernel, Surprise, fit
from tasks.domain.search_space import Axis
from tasks.stages.tune.forecast import Forecast
from tasks.stages.tune.study import DOUBTFUL
from tasks.stages.tune.trial_points import Coordinates, Seen

RUNGS = (20, 40, 80, 160, 200)
SPACE = {
    "eta": Axis.model_validate([0.03, 0.3, "log"]),
    "max_depth": Axis.model_validate([3, 8]),
    "grow_policy": Axis.model_validate({"choice": ["depthwise", "lossguide"]}),
}


def loss(params: dict[str, Any], rounds: int) -> float:
    """Large steps come further at first and less far in the end; depth 5 is best, and one policy is a little worse."""
    way = 1 - math.exp(-params["eta"] * rounds / 2)
    best = 0.5 + 0.1 * math.log(params["eta"] / 0.03) + 0.02 * abs(params["max_depth"] - 5)
    return 1.5 - way * (1.5 - best) + 0.01 * (params["grow_policy"] == "lossguide")


def trial(number: int, params: dict[str, Any], rounds: int) -> Seen:
    return Seen(number, params, {r: loss(params, r) for r in RUNGS if r <= rounds}, whole=rounds == RUNGS[-1])


def a(eta: float, depth: int = 5, policy: str = "depthwise") -> dict[str, Any]:
    return {"eta": eta, "max_depth": depth, "grow_policy": policy}


def test_a_process_without_noise_goes_through_its_values_and_far_away_knows_nothing() -> None:
    x = np.array([[0.0], [0.4], [1.0]])
    process = GaussianProcess(Kernel(1.0, np.array([0.3]), 0.0), x, [2.0, 5.0, 3.0])
    mean, deviation = process.predict(x)
    assert mean == pytest.approx([2.0, 5.0, 3.0], abs=1e-4)
    assert (deviation < 0.01).all()
    mean, deviation = process.predict([[100.0]])
    assert mean == pytest.approx(np.mean([2.0, 5.0, 3.0]))
    assert deviation == pytest.approx(np.std([2.0, 5.0, 3.0]), rel=1e-3)


def test_of_one_point_mean_and_deviation_are_those_of_the_closed_form() -> None:
    kernel = Kernel(2.0, np.array([0.5, 3.0]), 0.5)
    process = GaussianProcess(kernel, [[0.0, 0.0], [0.0, 0.0]], [1.0, 3.0])  # scaled: -1 and 1
    apart = math.sqrt(5) * math.hypot(0.3 / 0.5, 1.0 / 3.0)
    k = 2.0 * (1 + apart + apart**2 / 3) * math.exp(-apart)
    mean, deviation = process.predict([[0.3, 1.0]])
    assert mean == pytest.approx(2.0)
    assert deviation == pytest.approx(math.sqrt(2.0 - 2 * k * k / (2 * 2.0 + 0.5)), rel=1e-4)


def test_the_fit_finds_which_coordinate_matters_and_how_much_is_noise() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((80, 2))
    kernel = fit(x, np.sin(6 * x[:, 0]) + rng.normal(0, 0.1, 80), [1.0, 1.0], steps=60)
    assert kernel.lengths[0] < 1 < 2 * kernel.lengths[1]
    assert kernel.lengths[0] < kernel.lengths[1] / 3
    assert 0.005 < kernel.noise < 0.05  # of values of variance 1: 0.01 / 0.45 = 0.02
    here = rng.random((50, 2))
    mean, _ = GaussianProcess(kernel, x, np.sin(6 * x[:, 0])).predict(here)
    assert mean == pytest.approx(np.sin(6 * here[:, 0]), abs=0.15)


def test_values_that_are_all_the_same_and_points_that_lie_upon_each_other_are_believed() -> None:
    x = [[0.5], [0.5], [0.5]]
    mean, deviation = GaussianProcess(fit(x, [0.1] * 3, [1.0]), x, [0.1] * 3).predict([[0.5], [0.9]])
    assert mean == pytest.approx([0.1, 0.1])
    assert deviation[1] > deviation[0] > 1e-3


def test_the_gradient_of_the_fit_is_that_of_finite_differences() -> None:
    rng = np.random.default_rng(3)
    surprise = Surprise(rng.random((12, 2)), rng.normal(size=12), [1.0, 0.4])
    at = rng.normal(size=4)
    _, gradient = surprise(at)
    for i, step in enumerate(np.eye(4) * 1e-6):
        assert gradient[i] == pytest.approx((surprise(at + step)[0] - surprise(at - step)[0]) / 2e-6, rel=1e-4)


@given(share=st.floats(0, 1), axis=st.sampled_from([*SPACE.values(), Axis.model_validate([0.6, 1.0])]))
def test_a_share_of_an_axis_is_one_of_its_values_and_back(share: float, axis: Axis) -> None:
    value = axis.at(share)
    assert axis.holds(value)
    back = axis.at(axis.share(value))
    assert back == (value if isinstance(value, str) else pytest.approx(value))


def test_other_steps_after_as_long_a_way_lie_at_the_same_place_of_it() -> None:
    at = Coordinates(SPACE, RUNGS)
    assert at(a(0.1), 60)[-1] == pytest.approx(at(a(0.3), 20)[-1])
    assert (at(a(0.03), 20)[-1], at(a(0.3), 200)[-1]) == (pytest.approx(0.0), pytest.approx(1.0))
    assert len(at(a(0.1), 60)) == len(at.lengths) == 1 + 1 + 2 + 1
    assert Coordinates({"max_depth": SPACE["max_depth"]}, (100,))({"max_depth": 3}, 100) == [0.0, 0.0]


def test_a_trial_of_small_steps_that_is_behind_goes_on_and_one_of_large_steps_ahead_of_it_does_not() -> None:
    """What successive halving gets wrong: the one that ends best is behind, even after twice as many rounds."""
    before = [trial(n, a(eta, depth), 200) for n, (eta, depth) in enumerate([(0.1, 6), (0.3, 4), (0.2, 5), (0.15, 3)])]
    slow, fast = trial(4, a(0.03), 80), trial(5, a(0.25), 40)
    believed = Forecast(SPACE, RUNGS, [*before, slow, fast])
    assert slow.loss > fast.loss
    assert believed.chance(4) > DOUBTFUL > 100 * believed.chance(5)


def test_a_trial_that_is_the_best_already_is_never_given_up() -> None:
    trials = [trial(0, a(0.3), 200), trial(1, a(0.03), 160)]
    assert Forecast(SPACE, RUNGS, trials).chance(1) == 1.0


def test_suggestions_come_to_where_the_loss_is_least_and_a_seed_makes_them_again() -> None:
    trials = [trial(0, a(0.1, 6), 200), trial(1, a(0.3, 3, "lossguide"), 200), trial(2, a(0.2, 8), 200)]
    for number in range(3, 16):
        params = Forecast(SPACE, RUNGS, trials).suggestion(number)
        assert Forecast(SPACE, RUNGS, trials).suggestion(number) == params
        trials.append(trial(number, params, 200))
    best = min(trials, key=lambda t: t.loss)
    assert (best.params["max_depth"], best.params["grow_policy"]) == (5, "depthwise")
    assert best.params["eta"] < 0.04


def test_what_runs_already_is_not_suggested_once_more() -> None:
    trials = [trial(0, a(0.1, 6), 200), trial(1, a(0.3, 3), 200), trial(2, a(0.05, 8), 200)]
    believed = Forecast(SPACE, RUNGS, trials)
    first = believed.suggestion(7)
    running = Seen(3, first, {}, running=True)
    assert Forecast(SPACE, RUNGS, [*trials, running]).suggestion(7) != first


def test_of_many_trials_the_ends_of_the_last_ones_are_learned_from_and_a_new_one_is_among_them() -> None:
    trials = [trial(n, a(0.03 * 10 ** (n / 400), 5 if n == 0 else 8), 200) for n in range(400)]
    best = min(t.loss for t in trials)
    assert trials[0].loss == best  # not among the last ones, and yet the one to be better than
    new = Seen(400, a(0.3), {20: 0.9 * best}, running=True)
    behind = Seen(401, a(0.3, 8), {20: 1.4}, running=True)
    believed = Forecast(SPACE, RUNGS, [*trials, new, behind])
    assert len(believed.points) == 256
    assert believed.at(new.params, 20) in believed.points
    assert believed.chance(400) == 1.0
    assert believed.chance(401) < 0.5


def test_losses_of_nothing_and_trials_without_a_loss_are_borne() -> None:
    perfect = [Seen(0, a(0.1), {200: 0.0}, whole=True), Seen(1, a(0.2), {20: 0.0, 40: 0.0}), Seen(2, a(0.3), {})]
    believed = Forecast(SPACE, RUNGS, perfect)
    assert SPACE["eta"].holds(believed.suggestion(1)["eta"])
    assert 0 <= believed.chance(1) <= 1
    with pytest.raises(ValueError, match="no trial has a loss"):
        Forecast(SPACE, RUNGS, perfect[2:])

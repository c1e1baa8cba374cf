"""The gates before a model becomes champion, by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tasks.core.sections import GatesConfig
from tasks.settings import load_settings
from tasks.stages.evaluate.scoring import Difference
from tasks.stages.register.gates import Champion, Gate, Measured, Proof, all_passed, judge_gates

OFF = GatesConfig(**{name: None for name in GatesConfig.model_fields if name != "slice_rows"}, slice_rows=10)
MODEL = Measured(
    loss=0.9,
    mean=1.0,
    linear=0.95,
    slices={"stars 1": (100, 1.2), "stars 5": (900, 0.8), "tiny": (9, 50.0)},
    size_bytes=2_000_000,
    latency_ms={1: 0.5, 1000: 4.0},
    proof=Proof(rows=1000, missing=0, difference=2e-6, digest="0123"),
)
CHAMPION = Champion(
    "3",
    1.0,
    {"stars 1": (100, 1.0), "stars 5": (900, 1.0), "tiny": (9, 0.1)},
    difference=Difference(rows=1000, mean=-0.02, error=0.01),
)


def gates(model: Measured = MODEL, champion: Champion = CHAMPION, **on: Any) -> tuple[Gate, ...]:
    return judge_gates(model, champion, OFF.model_copy(update=on))


@pytest.mark.parametrize(
    ("gate", "limit_that_passes", "limit_that_blocks"),
    [
        ("max_loss", 0.9, 0.8999),
        ("min_gain_over_mean", 0.09, 0.1),  # a margin must be exceeded: 0.9 is not below 1.0 - 10%
        ("min_gain_over_linear", 0.05, 0.06),
        ("min_gain_over_champion", 0.09, 0.11),
        (
            "max_false_promotions",
            0.04,
            0.03,
        ),  # two standard errors: a chance of 2.3%, and 6 / pi^2 of the budget is due
        ("min_test_rows", 1000, 1001),
        ("max_slice_regression", 0.21, 0.19),  # stars 1: 1.2 against 1.0; the slice of nine rows is not judged
        ("max_slice_ratio", 1.34, 1.33),  # stars 1: 1.2 / 0.9
        ("max_packaged_difference", 2e-6, 1e-6),
        ("max_megabytes", 2.0, 1.9),
        ("max_ms_for_1_row", 0.5, 0.4),
        ("max_ms_for_1000_rows", 4.0, 3.9),
    ],
)
def test_each_gate_passes_and_blocks_by_its_own_limit(
    gate: str, limit_that_passes: float, limit_that_blocks: float
) -> None:
    (passed,) = gates(**{gate: limit_that_passes})
    (blocked,) = gates(**{gate: limit_that_blocks})
    assert (passed.passed, blocked.passed) == (True, False)
    assert all_passed([passed])
    assert not all_passed([passed, blocked])
    assert "not passed" in str(blocked)


def test_gates_that_are_off_give_no_line_and_block_nothing() -> None:
    assert gates() == ()
    assert all_passed(gates())


def test_all_gates_of_conf_are_switched_by_a_setting_and_judged() -> None:
    config = load_settings().registry.gates.model_copy(
        update={"max_loss": 1.0, "max_slice_ratio": 3.0, "slice_rows": 10, "max_packaged_difference": 1e-5}
    )
    found = judge_gates(MODEL, CHAMPION, config)
    assert len(found) == len(GatesConfig.model_fields) - 1  # slice_rows says for which slices
    assert [g.name for g in found if not g.passed] == ["slice against the champion"]


def test_a_packaged_model_that_was_not_given_all_test_rows_is_blocked_and_one_without_any_is_not_judged() -> None:
    def judged(**changed: int) -> Gate:
        model = replace(MODEL, proof=replace(MODEL.proof, difference=0.0, **changed))
        (gate,) = gates(model, max_packaged_difference=1e-6)
        return gate

    assert judged().passed is True
    assert (judged(missing=1).passed, judged(rows=0).passed) == (False, None)
    assert "1 of them not found" in str(judged(missing=1))
    assert "1,000 test reviews from their raw rows, digest 0123" in str(judged())


def test_in_a_hundred_nights_of_equal_models_hardly_any_champion_changes() -> None:
    rng, chance = np.random.default_rng(7), 0.05
    changed = 0
    for _ in range(400):
        for night in range(100):
            drawn = Difference(rows=500, mean=float(rng.normal(0, 0.01)), error=0.01)
            (gate,) = gates(champion=replace(CHAMPION, difference=drawn, earlier=night), max_false_promotions=chance)
            if gate.passed:
                changed += 1
                break
    assert changed / 400 < chance + 0.02  # two standard errors of this simulation's own


def test_a_clearly_better_model_is_promoted_even_after_a_hundred_nights() -> None:
    better = Difference(rows=500, mean=-0.05, error=0.01)
    (gate,) = gates(champion=replace(CHAMPION, difference=better, earlier=100), max_false_promotions=0.05)
    assert gate.passed
    assert "its comparison 101" in str(gate)


def test_the_same_predictions_are_no_evidence_and_uncompared_rows_are_none_either() -> None:
    same = replace(CHAMPION, difference=Difference(500, 0.0, 0.0))
    assert [gate.passed for gate in gates(champion=same, max_false_promotions=0.05)] == [False]
    uncompared = replace(CHAMPION, difference=None)
    assert [gate.passed for gate in gates(champion=uncompared, max_false_promotions=0.05, min_test_rows=5)] == [None]


def test_equal_to_the_champion_is_not_better() -> None:
    (gate,) = gates(replace(MODEL, loss=1.0), min_gain_over_champion=0.0)
    assert gate.passed is False


def test_the_first_model_has_no_champion_to_beat() -> None:
    found = gates(champion=Champion(), min_gain_over_champion=0.1, max_slice_regression=0.0)
    assert [g.passed for g in found] == [None]
    assert all_passed(found)
    assert "none yet" in str(found[0])


def test_without_a_linear_baseline_its_gate_does_not_apply() -> None:
    (gate,) = gates(replace(MODEL, linear=None), min_gain_over_linear=0.0)
    assert gate.passed is None


def test_a_champion_that_cannot_be_compared_keeps_its_place_and_the_line_says_why() -> None:
    unlike = Champion("3", problem="version 3 was trained on other features; raymill models promote VERSION")
    found = gates(champion=unlike, min_gain_over_champion=0.0, max_slice_regression=0.1)
    assert [g.passed for g in found] == [False]
    assert "raymill models promote" in str(found[0])


def test_no_gate_lets_nan_through() -> None:
    nan = float("nan")
    broken = replace(MODEL, loss=nan, slices={"a": (100, 1.0), "stars 1": (100, nan)}, latency_ms={1: nan})
    champion = Champion("3", 1.0, {"a": (100, 1.0), "stars 1": (100, 1.0)})
    on = {"max_loss": 9.0, "min_gain_over_mean": 0.0, "min_gain_over_champion": 0.0, "max_slice_regression": 9.0}
    found = gates(broken, champion, **on, max_slice_ratio=99.0, max_ms_for_1_row=99.0)
    assert [g.passed for g in found] == [False] * 6


def test_a_slice_that_the_champion_had_no_error_in_must_have_none_either() -> None:
    champion = Champion("3", 1.0, {"stars 1": (100, 0.0)})
    (gate,) = gates(champion=champion, max_slice_regression=9.0)
    assert gate.passed is False
    (gate,) = gates(replace(MODEL, slices={"stars 1": (100, 0.0)}), champion, max_slice_regression=0.0)
    assert gate.passed is True


def test_the_worst_slice_is_named_and_slices_that_only_one_side_has_are_not_compared() -> None:
    (gate,) = gates(replace(MODEL, slices={**MODEL.slices, "new": (500, 99.0)}), max_slice_regression=0.1)
    assert "'stars 1'" in gate.note
    assert gate.value == pytest.approx(1.2)


def test_a_gate_survives_json_with_what_json_cannot_say() -> None:
    for value in (0.25, None, float("inf"), float("nan")):
        told = json.dumps(Gate("g", value, 1.0, False, "why").as_json(), allow_nan=False)
        again = Gate.from_json(json.loads(told))
        assert str(again) == str(Gate("g", value, 1.0, False, "why"))


@pytest.mark.parametrize("wrong", ["min_gain_over_mean=1.5", "max_megabytes=0", "slice_rows=0", "max_los=1"])
def test_gates_that_cannot_be_meant_are_refused(wrong: str) -> None:
    from tasks.core.errors import SettingsError

    with pytest.raises(SettingsError):
        load_settings(overrides=[f"registry.gates.{wrong}"])

"""What settings of the gates would have promoted, on scores made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from flows.rehearse import promotions
from flows.rehearse.promotions import Night
from flows.rehearse.result import result_of, tables
from tasks.core.errors import SettingsError
from tasks.core.sections import GatesConfig
from tasks.settings import load_settings
from tasks.stages.evaluate.scoring import Difference

SETTINGS = load_settings()
OFF = GatesConfig(**{**dict.fromkeys(GatesConfig.model_fields), "slice_rows": 500})


def night(number: int, losses: list[float], months: dict[str, Any] | None = None, **changes: Any) -> Night:
    """A night in which the models of all nights until then have these losses, on 1,000 rows."""
    own = losses[number]
    values: dict[str, Any] = {
        "number": number,
        "until": f"2020-0{number + 1}-01T00:00+00:00",
        "arrived": 100,
        "reviews": 1000 + 100 * number,
        "model": f"model {number}",
        "metric": "rmse",
        "target": "rating",
        "rows": 1000,
        "mean": 2.0,
        "linear": 1.9,
        "losses": dict(enumerate(losses)),
        "differences": {n: Difference(1000, own**2 - loss**2, 0.0125) for n, loss in enumerate(losses[:number])},
        "slices": {n: {"new user": (600, loss)} for n, loss in enumerate(losses)},
        "months": months or {},
    }
    return Night(**{**values, **changes})


NIGHTS = [
    night(0, [1.00]),
    night(1, [1.00, 0.99], {"2020-01": (100, {0: 100.0})}),  # a little better: 1.6 standard errors
    night(2, [1.00, 0.99, 1.05], {"2020-02": (50, {0: 60.0, 1: 40.0}), "2020-03": (50, {0: 50.0, 1: 50.0})}),
    night(3, [1.00, 0.99, 1.05, 0.80], {"2020-03": (100, {0: 110.0, 1: 100.0, 2: 130.0})}),
]


def champions(**gates: Any) -> list[int | None]:
    return [d.champion for d in promotions.decisions(NIGHTS, OFF.model_copy(update=gates))]


def test_each_setting_promotes_by_its_own_champions() -> None:
    assert champions(min_gain_over_champion=0.0) == [0, 1, 1, 3]
    assert champions(max_false_promotions=0.05) == [0, 0, 0, 3]  # 0.99 against 1.00 is no evidence
    assert champions(min_test_rows=1001) == [0, 0, 0, 0]
    assert champions(max_loss=0.9) == [None, None, None, 3]
    assert champions() == [0, 1, 2, 3]
    assert [d.champion for d in promotions.every_model(NIGHTS)] == [0, 1, 2, 3]
    assert [d.champion for d in promotions.first_model(NIGHTS)] == [0, 0, 0, 0]


def test_a_decision_names_the_gates_that_failed_and_who_was_champion() -> None:
    second = promotions.decisions(NIGHTS, OFF.model_copy(update={"max_false_promotions": 0.05}))[1]
    assert (second.before, second.promoted, second.champion) == (0, False, 0)
    assert second.failed == ("evidence against the champion",)


def test_each_comparison_of_a_champion_asks_for_more_evidence() -> None:
    """By the budget of errors, the first may err with 6 / pi^2 of it, the third with a ninth of that."""
    better = [night(n, [1.0] * n + [0.987]) for n in range(4)]
    gates = OFF.model_copy(update={"max_false_promotions": 0.05})
    assert [d.promoted for d in promotions.decisions(better, gates)] == [True, True, True, True]  # a new champion each
    equal = [night(n, [1.0] * (n + 1)) for n in range(3)]
    late = [*equal, night(3, [1.0, 1.0, 1.0, 0.987])]
    assert [d.promoted for d in promotions.decisions(late, gates)] == [True, False, False, False]


def test_gates_about_a_package_have_no_say_and_a_night_without_a_new_model_decides_nothing() -> None:
    gates = OFF.model_copy(update={"max_packaged_difference": 0.0, "max_megabytes": 0.001, "max_ms_for_1_row": 0.001})
    assert promotions.decisions(NIGHTS[:1], gates)[0].promoted
    again = night(1, [1.0, 1.0], model="model 0")
    (_, second) = promotions.decisions([NIGHTS[0], again], OFF.model_copy(update={"max_loss": 0.5}))
    assert (second.promoted, second.failed) == (False, ())


def test_what_arrives_is_charged_to_the_champion_of_the_night_before() -> None:
    decided = promotions.decisions(NIGHTS, OFF.model_copy(update={"min_gain_over_champion": 0.0}))
    months = {m.month: m for m in promotions.months(NIGHTS, decided)}
    assert months["2020-01"].loss == pytest.approx(1.0)  # by model 0
    assert months["2020-02"].loss == pytest.approx((40 / 50) ** 0.5)  # by model 1
    assert (months["2020-03"].rows, months["2020-03"].champions) == (150, (1,))
    assert months["2020-03"].loss == pytest.approx((150 / 150) ** 0.5)
    assert months["all"].rows == 300
    assert months["all"].loss == pytest.approx((290 / 300) ** 0.5)


def test_what_arrives_before_any_champion_is_charged_to_nobody() -> None:
    decided = promotions.decisions(NIGHTS, OFF.model_copy(update={"max_loss": 0.9}))
    assert promotions.months(NIGHTS, decided) == []
    found = result_of(NIGHTS, {"mine": OFF.model_copy(update={"max_loss": 0.9})})["gates"]["mine"]
    assert (found["rows"], found["loss"], found["promotions"]) == (0, None, 1)


def test_the_result_has_the_settings_and_the_two_to_compare_with() -> None:
    result = result_of(NIGHTS, SETTINGS.rehearse.variants(SETTINGS.registry.gates))
    assert list(result["gates"]) == ["as_set", "any_gain", "strict", "lenient", "every_model", "first_model"]
    decided, months = tables(result)
    assert len(decided) == 6 * 4
    assert {row["gates"] for row in months} == set(result["gates"])


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("{mine: {max_los: 1.0}}", "there is no gate 'max_los'"),
        ("{mine: {max_loss: much}}", "rehearse.gates"),
        ("{mine: 3}", "rehearse.gates"),
        ("{mine: {max_false_promotions: 2}}", "less than 0.5"),
        ("{every_model: {}}", "choose another name"),
    ],
)
def test_a_wrong_setting_of_gates_is_named(value: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        load_settings(overrides=[f"rehearse.gates={value}"])

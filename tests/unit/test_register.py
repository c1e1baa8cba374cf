"""The gates before a model becomes champion, by hand."""

from __future__ import annotations

import pytest

from tasks.core.settings import RegistryConfig
from tasks.register import decide

CONFIG = RegistryConfig(model_name="m", min_gain_over_mean=0.02, min_gain_over_champion=0.01)


@pytest.mark.parametrize(
    ("candidate", "mean", "champion", "promoted"),
    [
        (0.90, 1.0, None, True),  # the first model has only the mean to beat
        (0.99, 1.0, None, False),  # beats it, but not by the margin
        (1.10, 1.0, None, False),
        (0.90, 1.0, 0.95, True),
        (0.90, 1.0, 0.905, False),  # beats mean and champion, the champion not by the margin
        (0.90, 1.0, 0.80, False),  # beats the mean only
        (0.99, 1.0, 1.50, False),  # beats the champion only
        (float("nan"), 1.0, None, False),
    ],
)
def test_a_model_is_promoted_only_if_it_beats_both_by_their_margins(
    candidate: float, mean: float, champion: float | None, promoted: bool
) -> None:
    decided, reasons = decide(candidate, mean, champion, "", CONFIG)
    assert decided is promoted
    assert len(reasons) == (1 if champion is None else 2)


def test_a_margin_is_a_share_of_the_rivals_rmse_and_must_be_exceeded() -> None:
    half = RegistryConfig(model_name="m", min_gain_over_mean=0.5, min_gain_over_champion=0)
    assert decide(0.5, 1.0, None, "", half)[0] is False
    assert decide(0.4999, 1.0, None, "", half)[0] is True
    assert decide(0.4, 1.0, 0.4, "", half)[0] is False  # equal to the champion is not better


def test_a_champion_that_cannot_be_compared_keeps_its_place() -> None:
    promoted, reasons = decide(0.5, 1.0, None, "version 3 was trained on other features", CONFIG)
    assert promoted is False
    assert "beats predict-the-mean" in reasons[0]
    assert "cannot be compared: version 3" in reasons[1]


def test_reasons_name_the_numbers_and_the_verdict() -> None:
    _, reasons = decide(0.9, 1.0, 0.8, "", CONFIG)
    assert reasons == (
        "RMSE 0.9000 beats predict-the-mean (1.0000) by the margin of 2.0%",
        "RMSE 0.9000 does not beat the champion (0.8000) by the margin of 1.0%",
    )

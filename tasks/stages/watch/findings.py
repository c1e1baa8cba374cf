"""What the watch over a night comes to: the expected loss and the realised one, beside the loss on the test slice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from math import hypot
from typing import Any

import numpy as np

from tasks.algorithms.distances import population_stability_index
from tasks.algorithms.reweighting import price
from tasks.domain.losses import mean_loss, overall
from tasks.stages.reference.layout import Reference
from tasks.stages.reference.measures import PREDICTION, WHOLE, Measured
from tasks.stages.watch.realised import Realised
from tasks.stages.watch.settings import WatchConfig

ERRORS = 2.0  # standard errors that an excess must be above, so that chance alone is told on about one night in forty
ROUGH = 0.02  # of a share of a slice that the weights do not meet
LEARNED = "the model may have learned from them, and their realised loss is not counted"
EXPECTED, REALISED, UNPRICED = "expected loss", "realised loss", "reviews of unknown kinds"


@dataclass(frozen=True)
class Findings:
    """Losses are in the target's metric; an excess is a share of the reference's loss.

    watched: rows that were measured. reference_error: the standard error of the reference's mean row loss.
    effective_rows: of the reference, by which the expected loss is known. unpriced: the share of rows in a slice that
    the reference has not, whose loss nobody knows. unseen_from: as in the reference; learned_rows: those with stars
    from before then, which have no realised loss. told: what could not be watched. new_users, new_items: shares of the
    rows; new_words: the mean share of a review's words; null where the model does not look at them.
    """

    metric: str = ""
    watched: int = 0
    reference_rows: int = 0
    reference_loss: float | None = None
    reference_error: float | None = None
    expected_loss: float | None = None
    expected_excess: float | None = None
    effective_rows: float | None = None
    unpriced: float | None = None
    realised_rows: int = 0
    realised_loss: float | None = None
    realised_excess: float | None = None
    unseen_from: str | None = None
    learned_rows: int = 0
    warnings: list[dict[str, str]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    prediction_psi: float | None = None
    new_users: float | None = None
    new_items: float | None = None
    new_words: float | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def findings(measured: Measured | None, turned_out: Realised, reference: Reference, config: WatchConfig) -> Findings:
    """Price the night's mix, and compare the losses with the reference's."""
    about = reference.about
    loss, mean = overall(about.metric, about.mean_loss), about.mean_loss
    known: dict[str, Any] = {"metric": about.metric, "reference_rows": about.rows, "reference_loss": loss}
    own = reference.cells.error
    known |= {"reference_error": own, "unseen_from": about.unseen_from, "learned_rows": turned_out.learned}
    warnings: list[dict[str, str]] = []
    told: list[str] = []
    if measured is None:
        told.append("no row was scored: there is nothing to watch")
    else:
        priced = price(reference.cells, measured.margins(about.ruler), measured.rows)
        expected = overall(about.metric, priced.mean)
        unpriced = float(np.mean((measured.levels < 0).any(axis=1)))
        known |= {"watched": measured.rows, "expected_loss": expected, "expected_excess": excess(expected, loss)}
        known |= {"effective_rows": priced.effective_rows, "unpriced": unpriced, **_at_a_glance(measured, reference)}
        if priced.unmet > ROUGH:
            told.append("no reviews of the test slice can stand for this mix: the expected loss is rough")
        if measured.rows < config.min_rows:
            told.append(
                f"{measured.rows:,} rows are fewer than watch.min_rows, {config.min_rows:,}: no warning is given"
            )
        else:
            # Where too much is of unknown kinds, the expected loss is that of the others.
            above = _above(EXPECTED, expected, loss, priced.mean - mean, priced.error, config)
            warnings += list(_unpriced(unpriced, config)) or above
    told += learned(turned_out.learned, about.unseen_from)
    if turned_out.mean is not None:
        real = overall(about.metric, turned_out.mean)
        known |= {"realised_rows": turned_out.rows, "realised_loss": real, "realised_excess": excess(real, loss)}
        warnings += realised_warnings(turned_out, about.metric, loss, own, config)
    return Findings(**known, warnings=warnings, told=told)


def learned(rows: int, unseen_from: str) -> list[str]:
    """Say which reviews have stars and no realised loss, if there are any."""
    return [f"{rows:,} reviews with stars are from before {unseen_from[:10]}: {LEARNED}"] if rows else []


def _at_a_glance(measured: Measured, reference: Reference) -> dict[str, float | None]:
    counts, ruler = measured.counts, reference.about.ruler
    psi = population_stability_index(reference.counts[WHOLE, PREDICTION], counts[PREDICTION][0].tolist())
    shares = {}
    for name, kind, new in (("new_users", "user_count", "new user"), ("new_items", "item_count", "new item")):
        if kind in ruler.levels:
            names = ruler.levels[kind]
            place = measured.levels[:, list(ruler.levels).index(kind)]
            shares[name] = float((place == (names.index(new) if new in names else -1)).mean())
    there = counts["new_words"][0][:-1].sum() if "new_words" in counts else 0
    words = float(measured.totals["new_words"][0] / there) if there else None
    return {"prediction_psi": psi, **shares, "new_words": words}


def numbers(found: Mapping[str, Any]) -> dict[str, float]:
    """Return the findings that are numbers, as metrics of MLflow."""
    return {
        f"watch/{name}": float(value)
        for name, value in found.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def realised_warnings(
    turned_out: Realised, metric: str, reference_loss: float, reference_error: float, config: WatchConfig
) -> list[dict[str, str]]:
    """Return the warning of a realised loss that is too high, if it is, by more than chance, and rows are enough.

    reference_error: the standard error of the reference's mean row loss; chance is on both sides.
    """
    if turned_out.mean is None or turned_out.rows < config.min_rows:
        return []
    difference = turned_out.mean - mean_loss(metric, reference_loss)
    value = overall(metric, turned_out.mean)
    return list(
        _above(REALISED, value, reference_loss, difference, hypot(turned_out.error or 0.0, reference_error), config)
    )


def excess(value: float, of: float) -> float | None:
    """Return by which share a loss is above another; None above none at all."""
    return value / of - 1 if of > 0 else None


def _above(
    name: str, value: float, reference: float, difference: float, error: float, config: WatchConfig
) -> Iterator[dict[str, str]]:
    """Yield a warning if a loss is above its limit, and by more than chance."""
    if config.max_excess is None or difference <= ERRORS * error:
        return
    limit = reference * (1 + config.max_excess)
    if value > limit:
        where = f"{limit:.4f}, {config.max_excess:.0%} above the test slice's {reference:.4f}"
        yield {"expectation": name, "value": f"{value:.4f}", "limit": where}


def _unpriced(share: float, config: WatchConfig) -> Iterator[dict[str, str]]:
    if config.max_unpriced is not None and share > config.max_unpriced:
        yield {"expectation": UNPRICED, "value": f"{share:.1%}", "limit": f"{config.max_unpriced:.0%} of the rows"}

"""Draw the report's plots of a model: its features' importance, the distribution of its errors, its calibration.

Each function takes small arrays and returns the bytes of a PNG, in the style of `tasks.engines.plots`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tasks.engines.plots import ACCENT, COLUMN, GREEN, GREY, INK, TUNED, UNTUNED, png, thousands

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Bins = Sequence[Mapping[str, float]]  # as `tasks.domain.metrics.calibration` gives them


def importance(features: Sequence[str], shaps: Sequence[float], gains: Sequence[float], limit: int) -> bytes:
    """Draw the first `limit` features' shares of the total mean |SHAP| and of the total gain, the first on top."""
    shares = [np.array(values[:limit]) / (sum(values) or 1) for values in (shaps, gains)]
    features = features[:limit]

    def draw(ax: Axes) -> None:
        y = np.arange(len(features))[::-1]
        for share, colour, label, up in zip(
            shares, (TUNED, UNTUNED), ("mean |SHAP|", "gain"), (0.2, -0.2), strict=True
        ):
            bars = ax.barh(y + up, share * 100, color=colour, height=0.38, label=label)
            ax.bar_label(bars, [f"{s:.1%}" for s in share], padding=3, fontsize=7.5)
        ax.set_yticks(y, [name if len(name) <= 32 else f"{name[:31]}…" for name in features])
        ax.set(xlabel="share of that of all features (%)")
        ax.grid(visible=False, axis="y")
        ax.margins(x=0.14, y=0.02)
        ax.legend(loc="lower right")

    return png(draw, (COLUMN[0], 1.0 + 0.34 * max(len(features), 4)))


def residuals(edges: np.ndarray, tuned: np.ndarray, untuned: np.ndarray, unit: str) -> bytes:
    """Draw histograms of predicted minus true label of both models over the same bins."""

    def draw(ax: Axes) -> None:
        ax.stairs(tuned, edges, fill=True, color=TUNED, alpha=0.55, label="tuned")
        ax.stairs(untuned, edges, color=UNTUNED, linewidth=1.5, label="untuned")
        ax.axvline(0, color=INK, linestyle="--", linewidth=1)
        width = edges[1] - edges[0]
        reach = np.abs(edges[:-1][(tuned + untuned) > 0]).max(initial=10 * width) + 2 * width
        ax.set(xlabel=f"predicted − true ({unit})", ylabel="test reviews", xlim=(-reach, reach))
        ax.legend(loc="upper left")
        thousands(ax)

    return png(draw, COLUMN)


def probabilities(edges: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> bytes:
    """Draw histograms of the predicted probability, for positive reviews and for the others."""

    def draw(ax: Axes) -> None:
        for counts, colour, label in ((positive, GREEN, "positive"), (negative, ACCENT, "not positive")):
            share = counts / max(int(counts.sum()), 1) * 100
            ax.stairs(share, edges, fill=True, color=colour, alpha=0.45, label=f"{label}: {counts.sum():,}")
        ax.axvline(0.5, color=INK, linestyle="--", linewidth=1)
        ax.set(xlabel="predicted probability", ylabel="share of those reviews (%)", xlim=(0, 1))
        ax.legend(loc="best")

    return png(draw, COLUMN)


def calibration(models: Mapping[str, Bins], predicted: str, came: str) -> bytes:
    """Draw mean label by mean prediction in bins of equal mass, with its 95% interval: {the model's label: bins}."""

    def draw(ax: Axes) -> None:
        ends = [b[key] for bins in models.values() for b in bins for key in ("prediction", "label")]
        low, high = min(ends), max(ends)
        ax.plot([low, high], [low, high], color=GREY, linestyle="--", linewidth=1, label="a perfect model")
        for (label, bins), colour in zip(models.items(), (TUNED, UNTUNED), strict=False):
            x, y = (np.array([b[key] for b in bins]) for key in ("prediction", "label"))
            # The mean of equal labels has an interval of width 0, and rounding may put it slightly off.
            spread = [np.array([b["label"] - b["low"] for b in bins]), np.array([b["high"] - b["label"] for b in bins])]
            ax.errorbar(
                x,
                y,
                np.maximum(spread, 0),
                color=colour,
                marker="o",
                markersize=4,
                linewidth=1.4,
                capsize=2,
                label=label,
            )
        ax.set(xlabel=predicted, ylabel=came)
        ax.legend(loc="upper left")

    return png(draw, COLUMN)


def by_star(edges: np.ndarray, counts: np.ndarray, predicted: str, perfect: bool) -> bytes:
    """Draw violins of the prediction for each true star: `counts` is 5 × bins over `edges`, in the prediction's unit.

    perfect: the prediction is in stars, so a perfect model is the diagonal.
    """
    centres = (edges[:-1] + edges[1:]) / 2

    def draw(ax: Axes) -> None:
        if perfect:
            ax.plot([0.6, 5.4], [0.6, 5.4], color=GREY, linestyle="--", linewidth=1, label="a perfect model")
            ax.set(yticks=range(7))
            ax.legend(loc="upper left")
        for star, row in enumerate(counts, start=1):
            if not row.any():
                continue
            # Smoothed over 5 bins for the shape only; the quartiles are those of the raw counts.
            smooth = np.convolve(row, [1, 4, 6, 4, 1], mode="same")
            half = 0.42 * smooth / smooth.max()
            seen = np.flatnonzero(smooth)
            inside = slice(seen[0], seen[-1] + 1)
            ax.fill_betweenx(
                centres[inside], star - half[inside], star + half[inside], color=TUNED, alpha=0.45, linewidth=0
            )
            low, middle, high = (centres[np.searchsorted(row.cumsum(), q * row.sum())] for q in (0.25, 0.5, 0.75))
            ax.plot([star, star], [low, high], color=INK, linewidth=4)
            ax.plot(star, middle, "o", color="white", markersize=4, markeredgecolor=INK)
        ax.set(xlabel="true rating (stars)", ylabel=predicted, xticks=range(1, 6), xlim=(0.4, 5.6))

    return png(draw, COLUMN)

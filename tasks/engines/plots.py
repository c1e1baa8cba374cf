"""Draw the report's plots: each function takes small arrays and returns the bytes of a PNG.

The same arrays give the same bytes: Agg, matplotlib's own DejaVu Sans, matplotlib's defaults below our style whatever a
user's matplotlibrc says, no date and no version in the file. Colours are Okabe and Ito's, which colour-blind readers
can distinguish; each model keeps its colour throughout the report.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TUNED, UNTUNED, ACCENT, GREEN, GREY, INK = "#0072B2", "#E69F00", "#D55E00", "#009E73", "#8A8A8A", "#222222"
COLUMN, PAGE = (5.4, 3.5), (10.4, 3.9)  # inches: half the page's width, and all of it
DPI = 170

STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.parse_math": False,  # names come from data: a stray $ must not be read as a formula
    "text.color": INK,
    "axes.edgecolor": "#777777",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.solid_capstyle": "round",
}

Draw = Callable[["Axes"], None]


def ratings(stars: np.ndarray, counts: np.ndarray) -> bytes:
    """Draw the reviews per star value; two arrays of one length."""

    def draw(ax: Axes) -> None:
        bars = ax.bar(stars, counts, width=0.8 * _step(stars), color=TUNED)
        total = max(int(counts.sum()), 1)
        ax.bar_label(bars, [f"{n / total:.1%}" if n else "" for n in counts], padding=2, fontsize=9)
        ax.set(xlabel="rating (stars)", ylabel="reviews", xticks=stars)
        ax.margins(y=0.12)
        thousands(ax)

    return png(draw, COLUMN)


def text_lengths(edges: np.ndarray, counts: np.ndarray, median: float) -> bytes:
    """Draw the reviews per text length (characters); `edges` has one value more than `counts`. Empty ends are cut."""
    filled = np.flatnonzero(counts) if counts.any() else np.array([0])
    counts, edges = counts[filled[0] : filled[-1] + 1], edges[filled[0] : filled[-1] + 2]

    def draw(ax: Axes) -> None:
        ax.stairs(counts, edges, fill=True, color=TUNED, edgecolor="white", linewidth=0.6)
        ax.axvline(max(median, 1), color=ACCENT, linestyle="--", label=f"median: {median:,.0f}")
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(comma())
        ax.set(xlabel="text length (characters, log scale)", ylabel="reviews")
        ax.legend()
        thousands(ax)

    return png(draw, COLUMN)


def over_time(edges: np.ndarray, counts: np.ndarray, unit: str, borders: Sequence[datetime]) -> bytes:
    """Draw the reviews per calendar unit; `edges` are datetime64[D], one more than `counts`; two borders: three slices.

    Without borders the slices are not consecutive in time.
    """

    def draw(ax: Axes) -> None:
        from matplotlib import dates

        x = dates.date2num(edges)
        ax.stairs(counts, x, fill=True, color="#4D4D4D")
        cuts = [x[0], *np.clip(dates.date2num(borders), x[0], x[-1]), x[-1]] if borders else []
        for name, colour, start, end in zip(
            ("train", "valid", "test"), (TUNED, UNTUNED, GREEN), cuts, cuts[1:], strict=False
        ):
            ax.axvspan(start, end, color=colour, alpha=0.22, linewidth=0, zorder=0, label=name)
        for cut in cuts[1:-1]:
            ax.axvline(cut, color=INK, linestyle="--", linewidth=1)
        locator = dates.AutoDateLocator()
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
        ax.set(xlabel="time of review (UTC)", ylabel=f"reviews per {unit}", xlim=(x[0], x[-1]))
        if cuts:
            ax.legend(loc="upper left", ncols=3)
        thousands(ax)

    return png(draw, PAGE)


def learning_curves(curves: Sequence[tuple[str, str, str, np.ndarray, np.ndarray]], metric: str) -> bytes:
    """Draw the metric by boosting round: (label, colour, line style, rounds, metric) of each curve."""

    def draw(ax: Axes) -> None:
        for label, colour, style, rounds, loss in curves:
            ax.plot(rounds, loss, color=colour, linestyle=style, label=label, marker="o" if len(rounds) == 1 else "")
        ax.set(xlabel="boosting round (trees)", ylabel=metric)
        if curves:
            ax.legend()

    return png(draw, PAGE)


def trials(numbers: np.ndarray, loss: np.ndarray, complete: np.ndarray, metric: str) -> bytes:
    """Draw each trial's validation loss in order, with the best so far; three arrays of one length."""

    def draw(ax: Axes) -> None:
        pruned = ~complete
        ax.step(numbers, np.minimum.accumulate(loss), where="post", color=ACCENT, label="best so far")
        ax.scatter(numbers[complete], loss[complete], color=TUNED, s=30, label="complete", zorder=3)
        if pruned.any():
            ax.scatter(numbers[pruned], loss[pruned], marker="x", color=GREY, s=30, label="stopped early", zorder=3)
        ax.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]  # it is a MaxNLocator
        ax.set(xlabel="trial (number)", ylabel=f"validation {metric}")
        ax.legend()

    return png(draw, COLUMN)


def trial_curves(
    curves: Mapping[int, tuple[np.ndarray, np.ndarray]], best: int, stopped: frozenset[int], metric: str
) -> bytes:
    """Draw every trial's validation loss by round, {trial: (rounds, loss)}; the best one is highlighted."""

    def draw(ax: Axes) -> None:
        for trial, (rounds, loss) in curves.items():
            if trial != best:
                ax.plot(rounds, loss, color="#B5B5B5", linewidth=1)
            if trial in stopped:
                ax.plot(rounds[-1:], loss[-1:], "x", color=GREY, markersize=5)
        if best in curves:
            ax.plot(*curves[best], color=TUNED, linewidth=2.2, label=f"trial {best}, the best")
        ax.plot([], [], color="#B5B5B5", label="other trials")
        ax.plot([], [], "x", color=GREY, markersize=5, label="stopped early")
        ax.set(xlabel="boosting round (trees)", ylabel=f"validation {metric}")
        ax.legend()

    return png(draw, COLUMN)


def parallel_coordinates(
    params: Mapping[str, Sequence[Any]], loss: np.ndarray, best: np.ndarray, metric: str = "RMSE (stars)"
) -> bytes:
    """Draw one line per trial through one axis per parameter; `loss` colours it, `best` (bool) marks it."""
    axes = {**params, f"validation {metric.partition(' (')[0]}": list(loss)}
    scaled = [_scale(list(values)) for values in axes.values()]
    heights = np.array([height for height, _, _ in scaled])  # parameters × trials, 0..1

    def draw(ax: Axes) -> None:
        from matplotlib import cm, colors

        # A few very bad trials must not use up the colours.
        norm = colors.Normalize(float(loss.min()), float(np.quantile(loss, 0.9)), clip=True)
        shade = cm.ScalarMappable(norm, "cividis")
        x = np.arange(len(axes))
        for row in np.argsort(-loss, kind="stable"):
            is_best = best[row]
            colour = ACCENT if is_best else shade.to_rgba(loss[row])
            ax.plot(x, heights[:, row], color=colour, linewidth=2.6 if is_best else 1.3, alpha=1 if is_best else 0.75)
        for position, (_, low, high) in enumerate(scaled):
            ax.axvline(position, color="#777777", linewidth=1, zorder=0)
            ax.text(position, -0.04, low, ha="center", va="top", fontsize=9)
            ax.text(position, 1.04, high, ha="center", va="bottom", fontsize=9)
        ax.set_xticks(x, [_wrapped(name) for name in axes])
        ax.set(yticks=[], ylim=(-0.14, 1.14), xlim=(-0.35, len(axes) - 0.65))
        ax.tick_params(length=0)
        ax.grid(visible=False)
        ax.spines[["left", "bottom"]].set_visible(False)
        ax.figure.colorbar(shade, ax=ax, label=f"validation {metric}", pad=0.01)

    return png(draw, PAGE)


def png(draw: Draw, size: tuple[float, float]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure.add_subplot())
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib.style

    with matplotlib.style.context(STYLE, after_reset=True):
        yield


def _scale(values: list[Any]) -> tuple[np.ndarray, str, str]:
    """Scale values to heights in 0..1; returns them and the lowest's and highest's texts. Words sort alphabetically."""
    if any(isinstance(value, str) for value in values):
        names = sorted({str(value) for value in values})
        heights = np.array([names.index(str(value)) for value in values]) / max(len(names) - 1, 1)
        return heights, names[0][:12], names[-1][:12] if len(names) > 1 else ""
    numbers = np.array([np.nan if value is None else value for value in values], dtype=float)
    low, high = np.nanmin(numbers), np.nanmax(numbers)
    if low == high:
        return np.where(np.isnan(numbers), np.nan, 0.5), "", f"{high:.3g}"
    if low > 0 and high / low > 8:  # a range this wide was most likely searched on a log scale
        heights = np.log(numbers / low) / np.log(high / low)
    else:
        heights = (numbers - low) / (high - low)
    return heights, f"{low:.3g}", f"{high:.3g}"


def _wrapped(name: str) -> str:
    return name.replace("_", "_\n", 1) if len(name) > 13 else name.replace(" ", "\n")


def _step(values: np.ndarray) -> float:
    return float(np.diff(values).min()) if len(values) > 1 else 1.0


def comma() -> Any:
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: f"{value:,.0f}")


def thousands(ax: Axes) -> None:
    ax.yaxis.set_major_formatter(comma())
    ax.yaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]  # it is a MaxNLocator

"""Draw the matrix of `benchmarks.partition_matrix`: bars by strategy, speed-up by workers, throughput as a heat map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.engines.plots import ACCENT, GREY, PAGE, TUNED, UNTUNED, png, thousands

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Cell = Mapping[str, Any]
COLOURS = {"uniform": UNTUNED, "dynamic": TUNED, "sharded": ACCENT}
MARKERS = {"uniform": "o", "dynamic": "s", "sharded": "^"}
STYLES = {"booster": "-", "lookups": "--"}


def pictures(cells: Sequence[Cell], cores: int) -> dict[str, bytes]:
    """Return PNGs by file name."""
    works = list(dict.fromkeys(cell["work"] for cell in cells))
    maps = {f"heatmap-{name}.png": heat_map([c for c in cells if c["work"] == name]) for name in works}
    return {"bars.png": bars(cells, cores), "lines.png": lines(cells, cores), **maps}


def bars(cells: Sequence[Cell], cores: int) -> bytes:
    """Throughput with as many workers as cores, by work and rows per chunk, with the range of the runs."""
    shown = [c for c in cells if c["workers"] == _workers(cells, cores)]
    groups = list(dict.fromkeys((c["work"], c["chunk_rows"]) for c in shown))

    def draw(ax: Axes) -> None:
        for place, strategy in enumerate(COLOURS):
            of = {(c["work"], c["chunk_rows"]): c for c in shown if c["strategy"] == strategy}
            x = np.arange(len(groups)) + 0.27 * (place - 1)
            heights = np.array([of[group]["rows_per_s"] for group in groups])
            low = heights - [of[group]["rows"] / of[group]["max_s"] for group in groups]
            high = [of[group]["rows"] / of[group]["min_s"] for group in groups] - heights
            ax.bar(x, heights, 0.25, color=COLOURS[strategy], label=strategy)
            ax.errorbar(x, heights, np.array([low, high]), fmt="none", ecolor="#444444", linewidth=1, capsize=2)
        ax.set_xticks(range(len(groups)), [f"{name}\n{rows:,}" for name, rows in groups])
        title = f"{_workers(cells, cores)} workers, {cores} cores: median, min and max"
        ax.set(xlabel="work, rows per chunk", ylabel="rows per second", title=title)
        ax.grid(visible=False, axis="x")
        ax.legend(ncols=3)
        ax.margins(y=0.15)
        thousands(ax)

    return png(draw, PAGE)


def lines(cells: Sequence[Cell], cores: int) -> bytes:
    """Speed-up over one worker of the same strategy, at the middle chunk size."""
    sizes = sorted({c["chunk_rows"] for c in cells})
    rows = sizes[len(sizes) // 2]
    workers = sorted({c["workers"] for c in cells})

    def draw(ax: Axes) -> None:
        ax.plot(workers, [min(w, cores) for w in workers], color=GREY, linestyle=":", label="ideal")
        for (name, style), (strategy, colour) in ((w, s) for w in STYLES.items() for s in COLOURS.items()):
            of = {
                c["workers"]: c["speed_up"]
                for c in cells
                if (c["work"], c["strategy"], c["chunk_rows"]) == (name, strategy, rows)
            }
            if of:
                ups = [of[w] for w in workers]
                label = f"{strategy}, {name}"
                ax.plot(workers, ups, color=colour, linestyle=style, marker=MARKERS[strategy], label=label)
        ax.set_xticks(workers)
        ax.set(xlabel="workers", ylabel="speed-up over one worker", title=f"{rows:,} rows a chunk, {cores} cores")
        ax.set_ylim(bottom=0)
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))

    return png(draw, PAGE)


def heat_map(cells: Sequence[Cell]) -> bytes:
    """Rows per second by strategy and workers (down) and rows per chunk (across), of one kind of work."""
    down = [(s, w) for s in COLOURS for w in sorted({c["workers"] for c in cells})]
    across = sorted({c["chunk_rows"] for c in cells})
    of = {(c["strategy"], c["workers"], c["chunk_rows"]): c["rows_per_s"] for c in cells}
    speeds = np.array([[of[s, w, rows] for rows in across] for s, w in down])

    def draw(ax: Axes) -> None:
        image = ax.imshow(speeds, cmap="cividis", aspect="auto", vmin=0)
        for (y, x), value in np.ndenumerate(speeds):
            dark = value < 0.5 * speeds.max()
            ax.text(x, y, f"{value:,.0f}", ha="center", va="center", color="white" if dark else "black")
        ax.set_xticks(range(len(across)), [f"{rows:,}" for rows in across])
        ax.set_yticks(range(len(down)), [f"{s}, {w} worker{'s' * (w > 1)}" for s, w in down])
        ax.set(xlabel="rows per chunk", title=f"{cells[0]['work']}: rows per second")
        ax.grid(visible=False)
        ax.figure.colorbar(image, ax=ax, label="rows per second", format="{x:,.0f}")

    return png(draw, PAGE)


def _workers(cells: Sequence[Cell], cores: int) -> int:
    """Return the most workers that have a core each."""
    return int(max(c["workers"] for c in cells if c["workers"] <= max(cores, 1)))

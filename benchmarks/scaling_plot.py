"""Draw what `raymill bench scaling` measured: speed-up and efficiency by workers, with Amdahl's fit.

python -m benchmarks.scaling_plot FILE --png FILE
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def draw(result: dict[str, Any], png: Path) -> None:
    """Draw two panels into a PNG. result: the case's JSON object."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = result["ours"]["by_workers"]
    workers = [row["workers"] for row in rows]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    speed_up, efficiency = figure.subplots(1, 2)
    dense = np.linspace(1, max(workers), 50)
    speed_up.plot(dense, dense, color="#8A8A8A", ls=":", label="ideal")
    if (serial := result["ours"].get("amdahl_serial_fraction")) is not None:
        fit = 1 / (serial + (1 - serial) / dense)
        speed_up.plot(dense, fit, color="#0072B2", label=f"Amdahl, serial {serial:.0%}")
    speed_up.plot(workers, [row["speed_up"] for row in rows], "o-", color="#D55E00", label="measured")
    best = result["ours"]["by_workers"][0]["median_s"] / result["peers"]["polars"]["median_s"]
    speed_up.axhline(best, color="#009E73", ls="--", label="Polars, all cores")
    efficiency.plot(workers, [row["efficiency"] for row in rows], "o-", color="#D55E00")
    efficiency.set_ylim(0, 1.1)
    speed_up.set(xlabel="workers", ylabel="speed-up over one worker", xticks=workers)
    efficiency.set(xlabel="workers", ylabel="efficiency", xticks=workers)
    speed_up.legend(fontsize=8, frameon=False)
    for panel in (speed_up, efficiency):
        panel.grid(alpha=0.3)
    figure.savefig(png, dpi=110, metadata={"Software": None})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling_plot")
    parser.add_argument("result", type=Path, help="what `raymill bench scaling --json` wrote")
    parser.add_argument("--png", type=Path, required=True)
    given = parser.parse_args()
    draw(json.loads(given.result.read_text()), given.png)
    return 0


if __name__ == "__main__":
    sys.exit(main())

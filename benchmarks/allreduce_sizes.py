"""All-reduces by size: measure each algorithm, fit the cost model, draw both and extrapolate to a cluster.

`raymill bench allreduce` measures; this reads its result, prints tables and draws:

    python -m benchmarks.allreduce_sizes FILE [--png FILE]

Over gloo, hierarchical is a tree in shared memory within nodes of half the ranks, and gloo between them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.allreduce_ranks import Run, bus_bandwidth, measure, spread, trials
from tasks.parallel.allreduce_cost import COUNTS, Machine, Measurement, fit, predict
from tasks.parallel.allreduce_direct import IN_CACHE_BYTES
from tasks.parallel.comm_actors import ActorGroup

MESSAGES = ("naive", "tree", "exchange", "ring", "rabenseifner")
SIDES = {"gloo": (*MESSAGES, "hierarchical", "gloo"), "shared memory": (*MESSAGES, "direct")}
ELEMENTS = (2, 1 << 8, 1 << 13, 1 << 16, 1 << 19, 1 << 21)  # 8 bytes to 8 MiB
NODES, LINKS = 1_000, (10e9, 100e9)  # bits a second

Row = dict[str, Any]


def by_size(group: ActorGroup, world: int, overs: Iterable[str], count: int) -> list[Row]:
    """Measure a group; returns a row for each kind of messages, algorithm and size, of `count` trials each."""
    rows = []
    for over in overs:
        for algorithm in SIDES[over]:
            for elements in ELEMENTS:
                run = Run(algorithm, over, elements, range(1, count + 1), per_node=max(1, world // 2))
                seconds, _ = trials(group.run(measure, [(run,)] * world), run.repeats)
                row = {"over": over, "algorithm": algorithm, "world": world, "nbytes": 4 * elements}
                rows.append({**row, **spread(seconds)})
    return rows


def adding() -> float:
    """Return gamma: seconds a byte of float32 takes to be added to another, in the cache."""
    total, other = np.zeros((2, IN_CACHE_BYTES // 4), np.float32)
    seconds = []
    for _ in range(200):
        began = time.perf_counter()
        np.add(total, other, out=total)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds) / IN_CACHE_BYTES


def fitted(rows: Iterable[Row], gamma: float) -> dict[str, Machine]:
    """Fit the constants of gloo's messages, of messages in shared memory, and of the direct algorithm."""
    groups: dict[str, list[Measurement]] = defaultdict(list)
    for row in rows:
        if row["algorithm"] in COUNTS:
            name = "direct" if row["algorithm"] == "direct" else row["over"]
            groups[name].append(Measurement(row["algorithm"], row["world"], row["nbytes"], row["trial_median_s"]))
    return {name: fit(group, gamma, os.cpu_count() or 1) for name, group in groups.items()}


def errors(rows: Iterable[Row], machines: dict[str, Machine]) -> dict[str, list[float]]:
    """Return prediction over measurement, by group of the fit."""
    ratios: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row["algorithm"] in COUNTS:
            name = "direct" if row["algorithm"] == "direct" else row["over"]
            predicted = predict(row["algorithm"], row["world"], row["nbytes"], machines[name])
            ratios[name].append(predicted / row["trial_median_s"])
    return ratios


def tell(rows: list[Row], machines: dict[str, Machine]) -> None:
    """Print the fit, its errors, the measurements, and what is fastest."""
    for name, ratios in errors(rows, machines).items():
        alpha, beta, gamma, cores = machines[name]
        constants = f"alpha {1e6 * alpha:.0f} us, beta {1e9 * beta:.3f} ns/B, gamma {1e9 * gamma:.3f} ns/B"
        print(f"{name}: {constants}, {cores} cores")
        low, middle, high = np.quantile(ratios, [0.1, 0.5, 0.9])
        print(
            f"  prediction over measurement: median {middle:.2f}, 10% {low:.2f}, 90% {high:.2f}, {len(ratios)} points"
        )
    for over, world in sorted({(row["over"], row["world"]) for row in rows}):
        here = [row for row in rows if (row["over"], row["world"]) == (over, world)]
        print(f"\n{over}, {world} ranks: milliseconds, median (min-max, variation)")
        for algorithm in SIDES[over]:
            cells = [
                f"{1e3 * r['trial_median_s']:.3f} ({1e3 * r['trial_min_s']:.3f}-{1e3 * r['trial_max_s']:.3f}, "
                f"{r['variation']:.0%})"
                for r in here
                if r["algorithm"] == algorithm
            ]
            print(f"| {algorithm} | " + " | ".join(cells) + " |")
        for nbytes in sorted({row["nbytes"] for row in here}):
            best = min((r for r in here if r["nbytes"] == nbytes), key=lambda r: r["trial_median_s"])
            print(f"  fastest of {nbytes:,} bytes: {best['algorithm']}")
    print(f"\n{NODES:,} ranks, one a node, milliseconds by the model")
    for link in LINKS:
        machine = network(machines["gloo"], link)
        for algorithm in MESSAGES:
            times = [1e3 * predict(algorithm, NODES, 4 * elements, machine) for elements in ELEMENTS]
            print(f"| {link / 1e9:.0f} Gb/s | {algorithm} | " + " | ".join(f"{t:.3g}" for t in times) + " |")


def network(machine: Machine, bits_per_s: float) -> Machine:
    """Ranks with a node and a link each: the software's latency as fitted, the link's bandwidth, no shared cores."""
    return Machine(machine.alpha, 8 / bits_per_s, machine.gamma)


def draw(rows: list[Row], machines: dict[str, Machine], png: Path) -> None:
    """Draw bus bandwidth by size: measured (dots) and predicted (lines), then predicted for the cluster."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colours = dict(zip((*COUNTS, "hierarchical", "gloo"), COLOURS, strict=True))
    figure = Figure(figsize=(12, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2)
    world = max(row["world"] for row in rows)
    sizes = np.logspace(np.log10(8), np.log10(64 << 20), 100)
    for panel, over in zip(panels[0], SIDES, strict=True):
        for algorithm in SIDES[over]:
            here = [r for r in rows if (r["over"], r["world"], r["algorithm"]) == (over, world, algorithm)]
            here.sort(key=lambda r: r["nbytes"])
            x = [r["nbytes"] for r in here]
            y = [bus_bandwidth(world, r["nbytes"], r["trial_median_s"]) / 1e9 for r in here]
            low = [bus_bandwidth(world, r["nbytes"], r["trial_max_s"]) / 1e9 for r in here]
            high = [bus_bandwidth(world, r["nbytes"], r["trial_min_s"]) / 1e9 for r in here]
            spread_of = [np.subtract(y, low), np.subtract(high, y)]
            line = "--" if algorithm not in COUNTS else "none"
            panel.errorbar(
                x, y, yerr=spread_of, fmt="o", ms=4, ls=line, lw=1, color=colours[algorithm], label=algorithm
            )
            if algorithm in COUNTS:
                machine = machines["direct" if algorithm == "direct" else over]
                curve = [bus_bandwidth(world, n, predict(algorithm, world, n, machine)) / 1e9 for n in sizes]
                panel.plot(sizes, curve, color=colours[algorithm], lw=1)
        panel.set_title(f"{world} ranks here, {over} (dots measured, lines model)")
    for panel, link in zip(panels[1], LINKS, strict=True):
        machine = network(machines["gloo"], link)
        wide = np.logspace(np.log10(8), np.log10(16 << 30), 100)
        for algorithm in MESSAGES:
            curve = [bus_bandwidth(NODES, n, predict(algorithm, NODES, n, machine)) / 1e9 for n in wide]
            panel.plot(wide, curve, color=colours[algorithm], label=algorithm)
        panel.axhline(link / 8e9, color="#8A8A8A", ls=":", lw=1)
        panel.set_title(f"{NODES:,} nodes at {link / 1e9:.0f} Gb/s (model alone)")
    for panel in panels.flat:
        panel.set(xscale="log", yscale="log", xlabel="bytes a rank", ylabel="bus bandwidth, GB/s")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, frameon=False)
    figure.savefig(png, dpi=110, metadata={"Software": None})


COLOURS = ("#8A8A8A", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#222222")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.allreduce_sizes")
    parser.add_argument("result", type=Path, help="what `raymill bench allreduce --json` wrote")
    parser.add_argument("--png", type=Path)
    given = parser.parse_args()
    result = json.loads(given.result.read_text())["ours"]
    machines = fitted(result["by_size"], result["gamma_s_a_byte"])
    tell(result["by_size"], machines)
    if given.png:
        draw(result["by_size"], machines, given.png)
    return 0


if __name__ == "__main__":
    sys.exit(main())

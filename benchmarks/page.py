"""Write what the bench measured as one Markdown page: a table a case, pictures where a case has some, the machine.

    python -m benchmarks.page FILE ... --out PAGE.md

FILES are what `raymill bench --json` wrote. The flow `bench` writes the same page with `page=PAGE.md`. Pictures go
beside the page, as PAGE-CASE.png. Nothing on the page is written by hand: what the numbers mean is in
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import allreduce_sizes, scaling_plot
from tasks.core.errors import InputError

Result = Mapping[str, Any]


def write(results: Sequence[Result], page: Path) -> None:
    """Write the page and its pictures. results: the cases' JSON objects, in the page's order."""
    page.parent.mkdir(parents=True, exist_ok=True)
    text = ["# Measured\n", _machine(results[0]) if results else "Nothing was measured."]
    for result in results:
        text += [f"## {result['case']}\n", _case(result)]
        if result["case"] in PLOTS:
            png = page.with_name(f"{page.stem}-{result['case']}.png")
            PLOTS[result["case"]](result, png)
            text.append(f"![{result['case']}]({png.name})\n")
    page.write_text("\n".join(text))


def _machine(result: Result) -> str:
    about = result["machine"]
    libraries = ", ".join(f"{name} {version}" for name, version in about["libraries"].items())
    memory = about["memory_bytes"] / 2**30
    return (
        f"{about['cores']} cores ({about['cpu']}), {memory:.0f} GiB, {about['platform']}, Python {about['python']}; "
        f"{libraries}. Ratios are ours over the peer's wall time, median of pairs: below 1 is faster.\n"
    )


def _case(result: Result) -> str:
    size = ", ".join(f"{value:,} {name}" for name, value in result["size"].items())
    command = f"raymill bench {result['case']} --size {next(iter(result['size'].values()))}"
    lines = [
        f"    {command} --workers {result['workers']} --runs {result['ours']['runs']}\n",
        f"{size}; load before {result['machine']['load_average']}. Checked: {result['checked']}.\n",
        "| | median s | min-max | variation | ratio | peak MB |",
        "|---|---|---|---|---|---|",
    ]
    for name, side in {"ours": result["ours"], **result["peers"]}.items():
        ratio = result["ratio"].get(name)
        lines.append(
            f"| {name} | {side['median_s']:.4g} | {side['min_s']:.4g}-{side['max_s']:.4g} | {_variation(side)} "
            f"| {'' if ratio is None else f'{ratio:.2f}'} | {side['peak_rss_bytes'] / 1e6:,.0f} |"
        )
    lines += [f"| {name} | skipped: {reason} | | | | |" for name, reason in result["skipped"].items()]
    verdicts = [str(value) for value in _verdicts(result["ours"])]
    return "\n".join([*lines, "", *(f"- {verdict}" for verdict in verdicts), *([""] if verdicts else [])])


def _variation(side: Mapping[str, Any]) -> str:
    """The coefficient of variation, where the case has it."""
    found = side.get("variation", side.get("coefficient_of_variation"))
    return "" if found is None else f"{found:.0%}"


def _verdicts(side: Mapping[str, Any]) -> list[str]:
    """What a case itself says of its aims, at any depth."""
    found = [side["verdict"]] if isinstance(side.get("verdict"), str) else []
    for value in side.values():
        if isinstance(value, Mapping):
            found += _verdicts(value)
    return found


def _allreduce(result: Result, png: Path) -> None:
    rows = result["ours"]["by_size"]
    allreduce_sizes.draw(rows, allreduce_sizes.fitted(rows, result["ours"]["gamma_s_a_byte"]), png)


PLOTS: dict[str, Callable[[Any, Path], None]] = {"allreduce": _allreduce, "scaling": scaling_plot.draw}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page")
    parser.add_argument("results", type=Path, nargs="+", help="what `raymill bench --json` wrote")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    results = []
    for file in given.results:
        try:
            results.append(json.loads(file.read_text()))
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read a result: {error}", where=str(file)) from error
    write(results, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

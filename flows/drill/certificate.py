"""The certificate of a drill: every point with its outcome, totals, versions, machine and date."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from flows.drill.plan import VERSIONS
from flows.drill.result import Result


@dataclass(frozen=True)
class Certificate:
    """Results in the points' order. `missing`: points that were asked for and have no result yet."""

    results: Sequence[Result]
    missing: Sequence[str]
    input: str

    @property
    def failed(self) -> list[Result]:
        return [r for r in self.results if not (r.passed or r.skipped)]

    @property
    def holds(self) -> bool:
        """Whether every point that could be tried passed, and at least one was tried."""
        return not self.failed and not self.missing and any(r.passed for r in self.results)

    @property
    def verdict(self) -> str:
        """Return the certificate in one sentence."""
        tried = [r for r in self.results if not r.skipped]
        passed = [r for r in tried if r.passed]
        word = "passed" if self.holds else "FAILED" if self.failed else "unfinished" if self.missing else "empty"
        skipped = len(self.results) - len(tried)
        text = f"{word}: {len(passed)} of {len(tried)} fault points resume to the same digests, {skipped} skipped"
        return f"{text}, {len(self.missing)} not tried yet" if self.missing else text

    @property
    def totals(self) -> dict[str, Any]:
        passed = [r for r in self.results if r.passed]
        return {
            "passed": len(passed),
            "failed": len(self.failed),
            "skipped": sum(r.skipped for r in self.results),
            "rows_lost": sum(r.rows_lost for r in self.results),
            "rows_repeated": sum(r.rows_repeated for r in self.results),
            "orphan_bytes": sum(r.orphan_bytes for r in self.results),
            "recovery_p50_s": quantile([r.recovery_s for r in passed], 0.5),
            "recovery_p95_s": quantile([r.recovery_s for r in passed], 0.95),
            "seconds": round(sum(r.seconds for r in self.results), 1),
        }

    @property
    def about(self) -> dict[str, str]:
        """Return what the certificate holds for."""
        versions = {name: _version(name) for name in VERSIONS}
        memory = f"{psutil.virtual_memory().total / (1 << 30):.0f} GiB"
        return {
            "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {memory}",
            "input": self.input,
            "versions": ", ".join(f"{n} {v}" for n, v in {"Python": platform.python_version(), **versions}.items()),
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "holds": self.holds,
            "totals": self.totals,
            "about": self.about,
            "missing": list(self.missing),
            "points": [r.to_json() for r in self.results],
        }

    def to_markdown(self) -> str:
        lines = ["# Drill", "", f"**{self.verdict}**", "", *_table(["", ""], self.facts()), ""]
        rows = [[f"`{r.point}`", *cells(r)] for r in self.results if not r.skipped]
        lines += _table(["point", "outcome", "recovered, s", "orphan bytes"], rows)
        if skipped := [[f"`{r.point}`", r.reason] for r in self.results if r.skipped]:
            lines += ["", *_table(["skipped", "why"], skipped)]
        if self.missing:
            lines += ["", f"Not tried yet: {', '.join(f'`{name}`' for name in self.missing)}."]
        return "\n".join([*lines, ""])

    def facts(self) -> list[list[str]]:
        """Return totals and what the certificate holds for, as rows of two cells."""
        total = self.totals
        return [
            ["rows lost, repeated", f"{total['rows_lost']:,}, {total['rows_repeated']:,}"],
            ["orphan bytes after gc", f"{total['orphan_bytes']:,}"],
            ["seconds to recover, median", f"{total['recovery_p50_s']:.1f}"],
            ["seconds to recover, p95", f"{total['recovery_p95_s']:.1f}"],
            *([name, value] for name, value in self.about.items()),
        ]

    def write(self, folder: Path) -> list[Path]:
        """Write certificate.json and certificate.md; return their paths."""
        files = {
            folder / "certificate.json": json.dumps(self.to_json(), indent=1),
            folder / "certificate.md": self.to_markdown(),
        }
        for path, text in files.items():
            path.write_text(text)
        return list(files)


def cells(result: Result) -> list[str]:
    """Return a point's outcome, seconds to recover and orphan bytes."""
    outcome = result.outcome if result.passed else f"{result.outcome.upper()}: {result.reason}"
    return [outcome, f"{result.recovery_s:.1f}" if result.passed else "", f"{result.orphan_bytes:,}"]


def quantile(values: Sequence[float], share: float) -> float:
    """Return the least value that at least this share of the values does not exceed; 0 of none."""
    return sorted(values)[math.ceil(share * len(values)) - 1] if values else 0.0


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]

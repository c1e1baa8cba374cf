"""The page that the bench writes: every side of every case, with what the case says of its aims."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from benchmarks import page

RESULT: dict[str, Any] = {
    "case": "etl",
    "size": {"rows": 1000, "bytes": 4096},
    "workers": 2,
    "checked": "equal",
    "ours": {
        "median_s": 0.5, "min_s": 0.4, "max_s": 0.75, "runs": 3, "peak_rss_bytes": 2_000_000, "variation": 0.25,
        "two": {"verdict": "2.0 of gloo, asked 2: reached"},
    },
    "peers": {"polars": {"median_s": 1.0, "min_s": 1.0, "max_s": 1.0, "runs": 3, "peak_rss_bytes": 1_000_000}},
    "skipped": {"pandas": "too many rows"},
    "ratio": {"polars": 0.5},
    "machine": {
        "cpu": "a CPU", "cores": 2, "memory_bytes": 2 << 30, "load_average": 0.1, "platform": "Linux", "python": "3.11",
        "libraries": {"polars": "2"},
    },
}  # fmt: skip


def test_the_page_has_every_side_and_every_verdict(tmp_path: Path) -> None:
    page.write([RESULT], tmp_path / "new" / "measured.md")
    text = (tmp_path / "new" / "measured.md").read_text()
    assert "raymill bench etl --size 1000 --workers 2 --runs 3" in text
    assert "| ours | 0.5 | 0.4-0.75 | 25% |  | 2 |" in text
    assert "| polars | 1 | 1-1 |  | 0.50 | 1 |" in text
    assert "| pandas | skipped: too many rows |" in text
    assert "- 2.0 of gloo, asked 2: reached" in text


def test_a_case_with_a_picture_gets_it(tmp_path: Path) -> None:
    scaling = copy.deepcopy(RESULT) | {"case": "scaling"}
    scaling["ours"]["by_workers"] = [
        {"workers": 1, "median_s": 1.0, "speed_up": 1.0, "efficiency": 1.0, "karp_flatt": None},
        {"workers": 2, "median_s": 0.6, "speed_up": 1.67, "efficiency": 0.83, "karp_flatt": 0.2},
    ]
    scaling["ours"]["amdahl_serial_fraction"] = 0.2
    page.write([scaling], tmp_path / "measured.md")
    assert (tmp_path / "measured-scaling.png").read_bytes().startswith(b"\x89PNG")
    assert "](measured-scaling.png)" in (tmp_path / "measured.md").read_text()

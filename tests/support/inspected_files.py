"""Raw files that no shipped profile fits, and what is made of them with the profile proposed for them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from tasks.sources import load_profile
from tasks.sources.inspection import Inspection, inspect
from tests.support.raw_files import read


def as_csv(rows: list[list[Any]], delimiter: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue()


def json_lines(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(r) + "\n" for r in records)


def words(n: int) -> str:
    return f"This is review number {n}, and it is long enough to be one"


def proposed(path: Path) -> Inspection:
    found = inspect([str(path)])
    assert found.proposed, found.chosen
    return found


def use(found: Inspection, path: Path, tmp_path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(usable rows, rejects) of reading `path` with the profile that was proposed for it."""
    profile = tmp_path / "proposed.yaml"
    profile.write_text(found.yaml or "", encoding="utf-8")
    load_profile(str(profile))
    return read(path, str(profile))

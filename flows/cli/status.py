"""Output of `raymill status`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console, Group
from rich.text import Text

from flows.cli.tables import NotedRow, noted_table

COLUMNS = ("service", "state", "up for", "restarts", "process")


def print_status(console: Console, status: Mapping[str, Any]) -> None:
    """Print the result of `flows.servers.up.status`."""
    if not status["up"]:
        count = len(status["left"])
        left = f"; {count} process(es) of an earlier raymill up are left: raymill down ends them" if count else ""
        console.print(f"nothing is up{left}", highlight=False)
        return
    console.print(service_table(status["services"]))


def service_table(services: Mapping[str, Mapping[str, Any]]) -> Group:
    """Return a table with a row for each service, and below it its address and its problem."""
    rows = []
    for name, about in services.items():
        age = str(timedelta(seconds=round(time.time() - about["since"])))
        state = "not well" if about["problem"] else "well"
        cells = [name, state, age, f"{about['restarts']:,}", str(about["pid"])]
        notes = [Text(about["url"]), Text(about["problem"], "red")]
        rows.append(NotedRow(cells, [note for note in notes if note]))
    return noted_table(COLUMNS, rows, right={"up for", "restarts", "process"})

"""Tables for 80 columns of terminal."""

from __future__ import annotations

from rich.table import Table


def compact_table(title: str | None = None) -> Table:
    """Return a table without lines, whose columns stand two blanks apart."""
    return Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")

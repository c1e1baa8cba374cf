"""Tables for a terminal of 80 columns. Nothing is cut off: wide text wraps."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Group, JustifyMethod, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

GAP, INDENT = 2, 4  # blanks between columns, and before a note


def compact_table(title: str | None, columns: Mapping[str, JustifyMethod]) -> Table:
    """Return a table without lines, its columns GAP blanks apart."""
    padding = (0, GAP, 0, 0)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=padding, header_style="bold")
    for name, justify in columns.items():
        table.add_column(name, justify=justify, overflow="fold")
    return table


@dataclass(frozen=True)
class NotedRow:
    """Cells, and notes of any length on lines of their own below them."""

    cells: Sequence[str]
    notes: Iterable[str | Text] = ()


def noted_table(columns: Sequence[str], rows: Sequence[NotedRow], *, right: Collection[str] = ()) -> Group:
    """Return a table of rows with notes. right: the columns of numbers."""
    widths = [max(map(cell_len, cells)) for cells in zip(columns, *(row.cells for row in rows), strict=True)]

    def line(cells: Sequence[str], style: str = "") -> Text:
        shown = []
        for name, cell, width in zip(columns, cells, widths, strict=True):
            blanks = " " * (width - cell_len(cell))
            shown.append(blanks + cell if name in right else cell + blanks)
        return Text((" " * GAP).join(shown).rstrip(), style=style)

    parts: list[RenderableType] = [line(columns, "bold")]
    for row in rows:
        notes = (Padding(Text(n, "dim") if isinstance(n, str) else n, (0, 0, 0, INDENT)) for n in row.notes)
        parts += [line(row.cells), *notes]
    return Group(*parts)

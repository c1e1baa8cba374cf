"""Output of `raymill data inspect`: what it prints, and the profile that it writes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from flows.cli.tables import compact_table
from tasks.core.errors import InputError, UserError
from tasks.core.secrets import masked
from tasks.sources.discovery import Quarantined
from tasks.sources.file_groups import Layout
from tasks.sources.inspection import Inspection, Judgement
from tasks.sources.lost_values import in_words
from tasks.sources.text_encoding import is_wide

SHOWN = 5  # files of a list that are printed
EXAMPLE_CHARS = 60
_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars", "\x01": "control characters (1)"}


def check_target(target: Path | None, dataset: str | None) -> None:
    """Raise UserError, before any work, if the profile cannot be written to `target`."""
    if target is None:
        return
    if dataset is not None:
        raise UserError(
            "--write saves a proposed profile, and with --dataset none is proposed", fix="leave one of them out"
        )
    if target.exists():
        raise UserError("this file exists already", where=str(target), fix="name another, or remove it first")
    if target.suffix not in (".yaml", ".yml"):
        raise UserError("a dataset profile's name must end in .yaml", where=str(target), fix="for example mine.yaml")


def save(found: Inspection, target: Path | None) -> None:
    """Write the profile. Raises InputError if the input has no reviews, and UserError if writing fails."""
    if found.why_none and not (found.chosen is None and found.items):
        raise InputError(f"no reviews can be read here: {found.why_none}", fix="see above what the columns hold")
    if target is None or found.yaml is None:
        return
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(found.yaml)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write the profile: {reason}", where=str(target), fix="name another file") from None


def print_inspection(console: Console, found: Inspection, paths: Sequence[str], target: Path | None) -> None:
    """Print the files' layouts, the profile that fits, and how it reads the rows."""
    for layout in found.layouts:
        _print_layout(console, layout)
    chosen = found.chosen
    damage = {d.name: d for layout in found.layouts for d in layout.damage}
    damage |= {d.name: d for d in chosen.damage} if chosen else {}
    _print_files(console, "cannot be read to the end", list(damage.values()))
    wrong = chosen.quarantined if chosen else found.unreadable
    _print_files(console, "would be quarantined", [q for q in wrong if not q.left_out])
    _print_files(console, "would be left out", [q for q in wrong if q.left_out])
    if chosen:
        _print_files(console, f"would be read as {chosen.profile.encoding}", _in_other_encodings(found, chosen))
    if found.items:
        metadata = [Quarantined(name, f"fits the profile {profile}") for name, profile in found.items.items()]
        _print_files(console, "product metadata: give it with --items, not as reviews", metadata)
    if chosen is None:
        return
    name = str(target or "mine.yaml") if found.proposed else chosen.name
    if found.proposed:
        _print(console, "No shipped dataset profile fits. A proposal, for you to check:", "bold")
        console.print()
        console.print(Text(found.yaml or ""), soft_wrap=True, highlight=False)
    else:
        _print(console, f"Dataset profile {name}: {chosen.profile.description}", "bold")
    _print_judgement(console, chosen)
    if not chosen.usable:
        return
    if found.proposed and target is None:
        _print(console, f"Save it with --write {name}, then:")
    command = shlex.join(_command(found, paths, name))
    _print(console, f"  {command}")


def _in_other_encodings(found: Inspection, chosen: Judgement) -> list[Quarantined]:
    """List the files whose bytes seem to be in another encoding than the profile's."""
    given = chosen.profile.encoding
    return [
        Quarantined(file.name, f"seems to be in {file.encoding}; give files of one encoding to a run")
        for layout in found.layouts
        for file in layout.files
        if given != "utf-8" and given not in (file.encoding, *file.other_encodings)
        if file.encoding != "utf-8" and not is_wide(file.encoding)
    ]


def _command(found: Inspection, paths: Sequence[str], name: str) -> list[str]:
    """Return the command of the run to start; reviews and product metadata in one folder are listed file by file."""
    few = 0 < len(found.item_paths) <= SHOWN and len(found.review_paths) <= SHOWN
    reviews, items = (found.review_paths, found.item_paths) if few else (list(paths), [])
    inputs = [w for p in reviews for w in ("--input", masked(p))] + [w for p in items for w in ("--items", masked(p))]
    return ["raymill", "run", *inputs, "--dataset", name]


def _print_layout(console: Console, layout: Layout) -> None:
    _print(console, f"{_files_in_words(layout)}: {_format_in_words(layout)}", "bold")
    if layout.wrong_bytes:
        trouble = f"encoding trouble: {layout.wrong_bytes:,} value(s) with �, which replaces bytes that are not"
        _print(console, f"{trouble} {layout.encoding}, here or where the file was written", "yellow")
    if layout.encoding != "utf-8" and not is_wide(layout.encoding):
        others = f", as likely {' or '.join(layout.first.other_encodings)}" if layout.first.other_encodings else ""
        _print(console, f"encoding {layout.encoding}{others}: guessed; check that the texts read well", "yellow")
    if layout.first.beside:
        _print(console, f"not read, as their columns are others: {_paths_in_words(layout.first.beside)}", "yellow")
    _print(console, f"Of the first {layout.rows:,} rows:", "dim")
    rows = [
        [_shown(c.name) or "(no name)", c.kind, _percent(c.null_share), _excerpt(c.example)] for c in layout.columns
    ]
    _print_table(console, ("column", "holds", "empty", "example"), rows)


def _files_in_words(layout: Layout) -> str:
    if len(layout.files) == 1:
        return _shown(layout.first.name)
    return f"{len(layout.files):,} files such as {_shown(layout.first.name)}"


def _format_in_words(layout: Layout) -> str:
    file = layout.first
    words = {"parquet": "parquet", "json-lines": "JSON lines", "json-array": "a JSON array"}
    words |= {"json-joined": "JSON objects one after the other", "json-columns": "a JSON object by column"}
    words["python-lines"] = "Python literals, one a line"
    words["json-wrapped"] = f"a JSON object with its rows in {_paths_in_words(file.rows_at)}"
    parts = [words.get(file.format, "")]
    if file.quoting is not None:
        parts = [f"text with {_DELIMITERS.get(file.quoting.delimiter, file.quoting.delimiter)} between fields"]
        parts.append("quotes are data" if file.quoting.quote is None else "quoted")
        without = sum(f.header is None for f in layout.files)
        if without == len(layout.files):
            parts.append("no header row")
        else:
            parts.append(f"a header row in all but {without:,}" if without else "a header row")
    if file.format != "parquet":
        parts.append("UTF-8" if layout.encoding == "utf-8" else layout.encoding)
    packings = sorted({f.packing for f in layout.files if f.packing})
    parts.append(f"packed with {', '.join(packings)}" if packings else "not packed")
    size = sum({f.path: f.size for f in layout.files}.values())
    return f"{', '.join(parts)}, {size / 1e6:,.1f} MB"


def _paths_in_words(paths: Sequence[tuple[str, ...]]) -> str:
    return ", ".join(_shown(".".join(path)) for path in paths)


def _print_files(console: Console, what: str, files: Sequence[Quarantined]) -> None:
    if not files:
        return
    _print(console, f"{len(files):,} file(s) {what}:", "yellow")
    for file in files[:SHOWN]:
        _print(console, f"  {file.name}: {file.reason}")
    if len(files) > SHOWN:
        _print(console, f"  and {len(files) - SHOWN:,} more")
    console.print()


def _print_judgement(console: Console, judged: Judgement) -> None:
    if not judged.rows:
        _print(console, "No row could be read with this profile.", "red")
        return
    for line in judged.adaptations:
        _print(console, line, "yellow")
    rejected = judged.rows - judged.usable
    share = f" ({_percent(judged.rejected_share)})" if rejected else ""
    _print(
        console, f"Of the first {judged.rows:,} rows {f'{rejected:,}' if rejected else 'none'} would be rejected{share}"
    )
    for reason, count in judged.reasons.most_common(8):
        _print(console, f"  {count:>9,}  {reason}")
    for line in in_words(judged.lost):
        _print(console, f"  {line}", "yellow")
    for line in judged.warnings:
        _print(console, f"  {line}", "yellow")
    if not judged.usable:
        return
    console.print()
    rows = [[c, _shown(_origin(c, judged)), _percent(empty)] for c, empty in judged.nulls.items()]
    _print_table(console, ("becomes", "from", "empty"), rows)
    rows = [[c, *(_excerpt(_value(row[c])) for row in judged.examples)] for c in judged.nulls]
    rows = [row for row in rows if any(row[1:])]
    _print_table(console, ("", *(f"row {n + 1}" for n in range(len(judged.examples)))), rows)


def _print_table(console: Console, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = compact_table(None, {name: "right" if name == "empty" else "left" for name in names})
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
    console.print()


def _origin(column: str, judged: Judgement) -> str:
    profile = judged.profile
    if column in profile.constants:
        return "(the same for all)"
    if profile.votes and column in ("helpful_votes", "total_votes"):
        return profile.votes.pair
    if column in profile.columns:
        return profile.columns[column]
    made = column == "review_id" or (column == "user_id" and profile.missing_user == "anonymous")
    return "(made)" if made else "(nothing)"


def _value(value: Any) -> str:
    if value is None:
        return ""
    return value.strftime("%Y-%m-%d %H:%M") if hasattr(value, "strftime") else str(value)


def _percent(share: float) -> str:
    if 0 < share < 0.0005:
        return "<0.1%"
    return f"{share:.1%}".replace("100.0", "100") if share else "0"


def _excerpt(text: str) -> str:
    """Return the beginning of a value, with an ellipsis if it is cut."""
    # Cut before and after: a review may be megabytes long, and one character become ten.
    shown = _shown(text[: EXAMPLE_CHARS + 1])
    return shown if len(shown) <= EXAMPLE_CHARS else shown[: EXAMPLE_CHARS - 1] + "…"


def _shown(text: str) -> str:
    """Return a text from a file, safe to print: unprintable characters and marks of text direction are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _print(console: Console, text: str, style: str = "") -> None:
    shown = "\n".join(_shown(line) for line in text.split("\n"))
    console.print(Text(shown, style=style), highlight=False, soft_wrap=True)

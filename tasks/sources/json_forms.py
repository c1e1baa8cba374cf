"""Detect the form of a JSON text that begins with an object: lines, joined objects, or one object with all rows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from tasks.sources.json_objects import COLUMNS_BYTES, Path, arrays_in, begun_arrays_in, rows_by_column
from tasks.sources.json_values import DECODER, parse_json

JsonForm = Literal["json-lines", "json-joined", "json-wrapped", "json-columns"]
SAMPLE = 100
_TABLE = re.compile(r'\s*\{\s*"[^"]*"\s*:\s*[\[{]')  # may be an object by column


@dataclass(frozen=True)
class Form:
    """How the rows lie in a text. `rows` are the first of them, where they are no lines; `rows_at` are the paths of the
    arrays that hold them, `beside` those of other arrays of objects."""

    name: JsonForm
    rows: tuple[dict[str, Any], ...] = ()
    rows_at: tuple[Path, ...] = ()
    beside: tuple[Path, ...] = ()


LINES = Form("json-lines")


def form_of(start: bytes, more: Callable[[], bytes], fits: Callable[[Iterable[dict[str, Any]]], bool]) -> Form:
    """Detect the form from the first bytes; `more` returns those that follow, and b"" at the end. `fits` says whether
    some of these records have the columns that are needed."""
    line, _, rest = start.partition(b"\n")
    if line[1:].lstrip()[:1] == b"'" or (rest.strip() and _is_object(line)):
        return LINES  # Python literals, or the usual case
    start += more()
    text = start.decode("utf-8", "replace")
    try:
        value, end = DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        if any(_is_object(other) for other in start.split(b"\n", SAMPLE)[1:-1]):
            return LINES  # the first line is damaged
        if "Unterminated" not in error.msg and error.pos + 32 < len(text):
            return LINES
        return _unfinished(start, text, more, fits)
    except (RecursionError, ValueError):
        return LINES
    following = text[end:].lstrip(" \t\r\n,")
    if following[:1] == "{":
        several_lines = "\n" in text[:end]
        alone = "\n" in text[end : len(text) - len(following)]
        return Form("json-joined", tuple(_first(text))) if several_lines or not alone else LINES
    if not following and (columns := _columns(value)):
        return columns
    if following or fits([value]):
        return Form("json-joined", (value,)) if "\n" in text[:end] and not following else LINES
    return _wrapped(arrays_in(value), fits) or Form("json-joined", (value,))


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False


def _first(text: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    at = 0
    while len(rows) < SAMPLE:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        try:
            row, at = DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            break
        rows += [row] if isinstance(row, dict) else []
    return rows


def _wrapped(
    arrays: Iterable[tuple[Path, list[dict[str, Any]]]], fits: Callable[[Iterable[dict[str, Any]]], bool]
) -> Form | None:
    """Take the arrays whose rows have the needed columns and are like those of the largest."""
    listed = list(arrays)
    fitting = [(path, rows) for path, rows in listed if fits(rows[:SAMPLE])] or listed
    if not fitting:
        return None
    keys = {path: {key for row in rows[:SAMPLE] for key in row} for path, rows in fitting}
    largest, rows = max(fitting, key=lambda one: len(one[1]) * len(keys[one[0]]))
    taken = tuple(p for p, _ in fitting if 2 * len(keys[p] & keys[largest]) >= len(keys[p] | keys[largest]))
    return Form("json-wrapped", tuple(rows[:SAMPLE]), taken, tuple(p for p, _ in listed if p not in taken))


def _columns(value: Any) -> Form | None:
    rows = rows_by_column(value)
    if not rows or not all(isinstance(row, dict) for row in rows[:SAMPLE]):
        return None
    return Form("json-columns", tuple(rows[:SAMPLE]))


def _unfinished(
    start: bytes, text: str, more: Callable[[], bytes], fits: Callable[[Iterable[dict[str, Any]]], bool]
) -> Form:
    """Detect the form of an object that is cut off, or longer than what was read."""
    if form := _wrapped(begun_arrays_in(text), fits):
        return form
    if not _TABLE.match(text):
        return LINES
    pieces, size = [start], len(start)
    while size <= COLUMNS_BYTES and (piece := more()):
        pieces.append(piece)
        size += len(piece)
    try:
        value = parse_json(b"".join(pieces)) if size <= COLUMNS_BYTES and len(pieces) > 1 else None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        return LINES
    return _columns(value) or _wrapped(arrays_in(value), fits) or LINES

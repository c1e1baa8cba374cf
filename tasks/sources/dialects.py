"""Find from a delimited file's beginning whether and how its fields are quoted, and which columns its header lacks."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count, islice
from typing import Literal

from tasks.sources.profiles import Quoting

BACKSLASH: Literal["\\"] = "\\"
_PREFACE = re.compile(rb'(?:\xef\xbb\xbf)*(?:"?sep=[^\r\n"]"?\r?\n)?', re.I)
_ESCAPED = re.compile(rb'\\[\\"]')
_BACKSLASH = re.compile(rb'\\([\\"]?)')
_MOST = 0.9  # of the records: the others may be damaged
_LOOKED_AT = 200


def without_preface(start: bytes) -> bytes:
    """Drop byte order marks, of which joined or rewritten files have several, and the line `sep=;` for Excel."""
    return start[_PREFACE.match(start).end() :]  # type: ignore[union-attr]  # it matches nothing, too


def plain_backslashes(data: bytes) -> bytes:
    """Double each backslash that is itself, for a parser that takes all for escapes.

    One before anything but a quote or another backslash is itself."""
    return _BACKSLASH.sub(lambda match: match[0] if match[1] else b"\\\\", data) if b"\\" in data else data


def same_length(data: bytes) -> bytes:
    """Blank out escaped quotes and backslashes, so that each quote left begins or ends a field."""
    return _ESCAPED.sub(b"xx", data) if b"\\" in data else data


def count_escapes(data: bytes, delimiter: str) -> tuple[int, int]:
    """Count the quotes that only a backslash can escape, and those that are doubled."""
    outside = re.escape(delimiter.encode()) + rb"\r\n"
    # Patterns that begin with plain bytes: to look for what stands before these first takes ten times as long.
    slashed = re.findall(rb'\\+"(?=[^"' + outside + rb"])", data)
    doubled = re.findall(rb'""(?<=[^"\\' + outside + rb']"")(?=[^"' + outside + rb"])", data)
    return sum(len(found) % 2 == 0 for found in slashed), len(doubled)  # an even number of backslashes escapes none


def resolved(quoting: Quoting, start: bytes) -> Quoting:
    """Return the quoting with what the profile leaves open decided by the file's beginning."""
    changes: dict[str, str | None] = {}
    quote = quoting.quote
    if "quote" not in quoting.model_fields_set and quote is None and are_quoted(start, quoting.delimiter):
        quote = changes["quote"] = '"'
    if quote == '"' and "escape" not in quoting.model_fields_set:
        escaped, doubled = count_escapes(start, quoting.delimiter)
        changes["escape"] = BACKSLASH if escaped and escaped >= doubled else None
    return Quoting(**{**quoting.model_dump(), **changes})


def are_quoted(start: bytes, delimiter: str) -> bool:
    """Whether quotes enclose fields, where they could also be data: all names or all values of a column are in quotes,
    or the fields add up only so."""
    escaped, doubled = count_escapes(start, delimiter)
    quoting = Quoting(quote='"', delimiter=delimiter, escape=BACKSLASH if escaped and escaped >= doubled else None)
    start, raw = (start.replace(b'\\"', b'""') if quoting.escape else start), start
    lines = [line.rstrip("\r").split(delimiter) for line in start.decode("utf-8", "replace").split("\n")[:_LOOKED_AT]]
    lines = lines[:-1] if len(lines) > 1 else lines
    header, *rest = lines
    if len(header) < 2 or b'"' not in start:
        return False
    if all(map(_enclosed, header)):
        return True
    records = records_of(raw, quoting)[1:]
    fit_as_data = sum(len(line) == len(header) for line in rest)
    fit_quoted = sum(len(record) == len(header) for record in records)
    if fit_quoted < _MOST * len(records) or not rest or not records:
        return False
    if fit_quoted / len(records) < fit_as_data / len(rest):
        return False
    columns = [[v for v in column if v] for column in zip(*(x for x in rest if len(x) == len(header)), strict=True)]
    if any(len(column) >= 10 and all(map(_enclosed, column)) for column in columns):
        return True
    values = [value for line in rest for value in line if value[:1] == '"']
    needed = sum(_enclosed(v) and '""' in v[1:-1] for v in values)
    if all(map(_enclosed, values)):
        return needed > 0
    return fit_quoted == len(records) and len(rest) - fit_as_data >= 2


def _enclosed(value: str) -> bool:
    return len(value) > 1 and value[0] == value[-1] == '"' and '"' not in value[1:-1].replace('""', "")


def records_of(start: bytes, quoting: Quoting, at_most: int = 100) -> list[list[str]]:
    """Parse the first records, without the last, which may be cut."""
    start = plain_backslashes(start) if quoting.escape else start
    text = start.decode("utf-8", "replace")
    if quoting.quote is None:
        records = [line.rstrip("\r").split(quoting.delimiter) for line in text.split("\n")[: at_most + 1]]
    else:
        csv.field_size_limit(1 << 30)
        reader = csv.reader(
            io.StringIO(text, newline=""),
            delimiter=quoting.delimiter,
            quotechar=quoting.quote,
            escapechar=quoting.escape,
        )
        records = list(islice(reader, at_most + 1))
    if len(records) > 1 and (len(records) > at_most or not text.endswith(("\n", "\r"))):
        records = records[:-1]
    return [record for record in records if record and record != [""]]


def _distinct(names: Sequence[str]) -> list[str]:
    """Number the names that occur again: stars, stars_2."""
    if len(set(names)) == len(names):
        return list(names)
    taken, distinct = set(names), []
    numbers: dict[str, Iterator[int]] = {}  # of a name that was there already
    for name in names:
        new = name
        if name in numbers:
            new = next(numbered for i in numbers[name] if (numbered := f"{name}_{i}") not in taken)
            taken.add(new)
        elif name:
            numbers[name] = count(2)
        distinct.append(new)
    return distinct


def fitted_header(names: Sequence[str], records: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Add to a header what it lacks against the records below it: a name for the row names, as R writes them, or for
    empty fields after a last delimiter. A last name that is empty and has no fields is dropped."""
    names = _distinct(names)
    if not records:
        return tuple(names)
    width, alike = Counter(map(len, records)).most_common(1)[0]
    rows = [record for record in records if len(record) == width]
    more = width - len(names)
    if alike < _MOST * len(records) or not more:
        return tuple(names)
    if more > 0 and not any(any(record[len(names) :]) for record in rows):
        return (*names, *(f"column_{i + 1}" for i in range(len(names), width)))
    if more == 1 and "" not in names and len({record[0] for record in rows}) == len(rows):
        return ("", *names)
    if more < 0 and not any(names[width:]):
        return tuple(names[:width])
    return tuple(names)

"""Detect the encoding, form, quoting and header of a text file from its first bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tasks.sources import dialects, locations, text_encoding
from tasks.sources.file_checks import (
    Kind,
    Unreadable,
    check_columns,
    check_json_array,
    check_json_lines,
    check_records,
    fit,
    item_id_path,
)
from tasks.sources.json_forms import form_of
from tasks.sources.own_profile import with_names
from tasks.sources.paths import columns_of
from tasks.sources.profiles import Profile, Quoting

JsonFormat = Literal["json-lines", "python-lines", "json-array", "json-joined", "json-wrapped", "json-columns"]
Format = Literal["parquet", "delimited"] | JsonFormat
MORE_BYTES = 1 << 20  # of delimited files, to see how quotes within texts are written


@dataclass(frozen=True)
class Shape:
    """What a file's first bytes tell: the fields of SourceFile of the same names, and the columns' names."""

    format: Format
    quoting: Quoting | None = None
    header: tuple[str, ...] | None = None
    rows_at: tuple[tuple[str, ...], ...] = ()
    beside: tuple[tuple[str, ...], ...] = ()
    encoding: str = "utf-8"
    other_encodings: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def of_file(self) -> dict[str, Any]:
        """Return the fields that SourceFile has, too."""
        return {name: value for name, value in vars(self).items() if name != "names"}


def readable_encoding(start: bytes, profile: Profile) -> tuple[str, tuple[str, ...]]:
    """Return the encoding to read a file in, and others as likely where it is a guess. Raises Unreadable."""
    encoding, guess = text_encoding.encoding_of(start, profile.encoding)
    if start.count(0) > len(start) // 8 and not text_encoding.is_wide(encoding or "utf-8"):
        wide = text_encoding.wide_without_mark(start)
        what = "this is not UTF-8 or similar text"
        if wide:
            raise Unreadable(f"{what}; it seems to be in {wide}", f"set `encoding: {wide}` in the dataset profile")
        raise Unreadable(what, f"readable endings: {', '.join(locations.ENDINGS)}")
    if encoding:
        return encoding, ()
    if not profile.columns and guess:  # inspect shows what was guessed
        return guess.encoding, guess.others
    if not profile.columns or text_encoding.are_many(start):
        seems = f"it seems to be in {' or '.join([guess.encoding, *guess.others])}" if guess else "no encoding fits it"
        raise Unreadable(
            f"this text is not in UTF-8; {seems}",
            f"set `encoding: {guess.encoding if guess else '…'}` in the dataset profile; "
            "`raymill data inspect` shows the texts in that encoding",
        )
    return profile.encoding, ()


def sniff_text(
    start: bytes, more: Callable[..., bytes], ending: str, profile: Profile, kind: Kind, *, whole: bool
) -> Shape:
    """Detect a text's form from its beginning in UTF-8, or from `whole` of it. Raises Unreadable."""
    text = start.lstrip()
    if not text:
        raise Unreadable("the file holds only white space", "remove it or write it again")
    if text[:1] == b"{" and ending not in (".csv", ".tsv"):
        read: list[bytes] = []
        form = form_of(text, lambda: _kept(more(), read), lambda records: fit(records, profile, kind))
        if form.name == "json-lines":
            if read and not whole:  # the first line is longer than the beginning, or damaged
                text, whole = text + b"".join(read), not all(read)
            lines, records = check_json_lines(text, profile, kind, whole=whole)
            return Shape(lines, names=tuple(columns_of(records, profile.wanted)))
        check_records(form.rows, profile, kind)
        names = tuple(columns_of(form.rows, profile.wanted))
        return Shape(form.name, rows_at=form.rows_at, beside=form.beside, names=names)
    if text[:1] == b"[" and ending not in (".csv", ".tsv"):
        rows = check_json_array(text, profile, kind)
        if not rows and not whole:  # the first element is longer than the beginning
            rows = check_json_array(text + more(), profile, kind)
        return Shape("json-array", names=tuple(columns_of(rows, profile.wanted)))
    if ending in (".json", ".jsonl", ".ndjson"):
        raise Unreadable("the first line is not a JSON object", "give JSON lines, or one array of objects")
    start += more() if b"\n" not in start else more(MORE_BYTES) if b'"' in start else b""
    quoting, header = _delimited(start, ending, profile, kind)
    return Shape("delimited", quoting, header, names=header or ())


def _kept(piece: bytes, pieces: list[bytes]) -> bytes:
    pieces.append(piece)
    return piece


def _delimited(start: bytes, ending: str, profile: Profile, kind: Kind) -> tuple[Quoting, tuple[str, ...] | None]:
    by_ending: dict[str, list[Quoting]] = {".csv": [profile.csv], ".tsv": [profile.tsv]}
    choices = by_ending.get(ending, [profile.tsv, profile.csv])
    failures: list[Sequence[str]] = []
    for given in choices:
        quoting = dialects.resolved(given, start)
        first, *records = dialects.records_of(start, quoting) or [[""]]
        first = [name.strip() for name in first]
        if quoting.quote is None and dialects.are_quoted(start, quoting.delimiter):
            section = "tsv" if given is profile.tsv else "csv"
            raise Unreadable(
                "the fields are in quotes, which the profile takes for data",
                f"set `{section}: {{quote: '\"'}}` in the dataset profile",
            )
        needed_columns = set(with_names(profile, first).mandatory) if kind == "reviews" else {item_id_path(profile)}
        if needed_columns <= set(first) or 2 * len(set(first) & set(profile.header)) >= len(first) > 1:
            check_columns(first, profile, kind)
            return quoting, dialects.fitted_header(first, records)
        if needed_columns & set(first):
            failures.insert(0, first)
        elif profile.header and len(first) == len(profile.header):
            return quoting, None
        else:
            failures.append(first)
    if needed_columns & set(failures[0]):
        check_columns(failures[0], profile, kind)
    columns = ", ".join(sorted(needed_columns))
    raise Unreadable(
        f"the first line has {len(failures[0])} fields and is not the header that the profile expects",
        f"check that the file is {ending[1:].upper() or 'CSV'} and that the dataset profile is right, which needs the "
        f"columns {columns}; `raymill data inspect` proposes a profile",
    )

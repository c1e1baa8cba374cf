"""Map a release's product records to rows of the canonical items table.

The profile's `items:` section gives each canonical column's dotted path in a record:

    items:
      item_id: asin
      category: categories[0][0]          # the first of the first path
      sales_rank: salesRank               # {'Books': 64038}, "64,038 in Books (See Top 100)" or a bare number
      also_viewed: related.also_viewed

A record without an id is rejected. All else is optional: an unusable value becomes null, and the item is kept.
"""

from __future__ import annotations

import ast
import html
import math
import re
import warnings
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

import orjson
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, field_validator

from tasks.domain.ids import plain
from tasks.domain.schemas import ITEMS
from tasks.sources.json_values import DECODER

# What repr() writes for dicts, lists, texts, numbers, booleans, None, nan and inf, and nothing else. Python's parser
# alone is not safe: a megabyte of f-string takes it minutes, and a megabyte of "1+1+1" takes 400 MB before it fails.
_STRING = r"""u?(?:'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+")"""
_NUMBER = r"-?(?:\d++\.?\d*+|\.\d++)(?:[eE][-+]?\d++)?"
_VALUE = rf"(?:{_STRING}|{_NUMBER}|True|False|None|nan|-?inf)(?=\s*+(?:[\]){{}},:]|\Z))"
_NOT_FINITE = re.compile(rf"({_STRING})|nan|inf", re.S)
_DATETIME = re.compile(
    rf"({_STRING})|datetime\.datetime\((\d+), (\d+), (\d+), (\d+), (\d+)(?:, (\d+))?(?:, (\d+))?"
    r"(?:, tzinfo=datetime\.timezone\.utc)?\)",
    re.S,
)
_LITERAL = re.compile(rf"(?:[\s\[\](){{}},:]|{_VALUE})*+", re.S)
# Parsing takes up to 1 kB for a value; no record of any release has a hundredth of these.
MAX_VALUES = 100_000

_STEP = re.compile(r"([^\[\]]+)((?:\[\d+\])*)")
_PRICE = re.compile(r"[$€£]?\s*(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)")
_RANK = re.compile(r"([\d,]+)\s*(?:(?:Paid|Free)\s+)?in(?![a-z])\s*([^(]+)")


class ItemColumns(BaseModel):
    """Each canonical column's path in a release's product records: `name`, `name.name`, `name[0]`, or null."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item_id: str
    title: str | None = None
    brand: str | None = None
    price: str | None = Field(default=None, description='A number, or a text such as "$1,299.00"')
    category: str | None = Field(default=None, description="A text; of lists the first of the first")
    sales_category: str | None = Field(default=None, description="Where the rank does not name its category itself")
    sales_rank: str | None = Field(default=None, description='{"Books": 7}, "7 in Books (…)" or a list of such, or 7')
    also_viewed: str | None = Field(default=None, description="A list of item ids")

    @field_validator("*")
    @classmethod
    def _is_a_path(cls, path: str | None) -> str | None:
        if path is not None:
            steps_of(path)
        return path


@lru_cache(maxsize=256)
def steps_of(path: str) -> tuple[str | int, ...]:
    """Split a dotted path into keys and indices: "categories[0][0]" is ("categories", 0, 0). Raises ValueError."""
    steps: list[str | int] = []
    for part in path.split("."):
        match = _STEP.fullmatch(part)
        if match is None:
            raise ValueError(f"{path!r} is not a path; write name, name.name or name[0]")
        steps += [match[1], *(int(index) for index in re.findall(r"\d+", match[2]))]
    return tuple(steps)


def parse_literal(line: bytes) -> Any:
    """Parse one line of JSON or one Python literal, without evaluating anything.

    Raises ValueError with the reason for anything else, and for more nesting or values than any record has. The caller
    limits the length.
    """
    try:
        return orjson.loads(line)
    except ValueError:
        pass
    if b'"' not in line and b"\\" not in line:
        # In half of the 2014 release's literals every quote begins or ends a text: they are JSON except for the kind of
        # quote. 8 µs a line instead of 200 with Python's parser.
        try:
            return orjson.loads(line.replace(b"'", b'"'))
        except ValueError:
            pass
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    try:
        return DECODER.decode(text)  # takes NaN, Infinity and half a surrogate pair, which orjson refuses
    except (ValueError, RecursionError):
        pass
    return parse_python(text)


def parse_python(text: str) -> Any:
    """Parse one Python literal by Python's parser. Raises ValueError with the reason.

    A datetime, as scrapers print it, becomes a text; a comma after the literal is dropped."""
    if "datetime.datetime(" in text:
        text = _DATETIME.sub(lambda m: m[1] or _time_as_text(*(int(part or 0) for part in m.groups()[1:])), text)
    if not text or not _LITERAL.fullmatch(text):
        raise ValueError("neither JSON nor a Python literal")
    if text.count(",") > MAX_VALUES:
        raise ValueError(f"a Python literal of more than {MAX_VALUES:,} values")
    if "nan" in text or "inf" in text:
        text = _NOT_FINITE.sub(lambda m: m[1] or {"nan": "None", "inf": "1e999"}[m[0]], text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unknown escape such as \d stays as it is
            value = ast.literal_eval(text)
    except (RecursionError, MemoryError):
        raise ValueError("nested too deeply") from None
    except (ValueError, SyntaxError, TypeError) as error:
        deep = "too many nested" in str(error)
        raise ValueError("nested too deeply" if deep else "neither JSON nor a Python literal") from None
    return value[0] if text.endswith(",") and isinstance(value, tuple) and len(value) == 1 else value


def _time_as_text(year: int, month: int, day: int, hour: int, minute: int, second: int, microsecond: int) -> str:
    fraction = f".{microsecond:06}" if microsecond else ""
    return f"'{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}{fraction}'"


def to_items(rows: Sequence[Any], mapping: ItemColumns) -> tuple[pa.Table, list[tuple[int, str]]]:
    """Convert records to a table of `schemas.ITEMS`, in order; returns it and (index, reason) of the rejected ones.

    HTML entities in texts are decoded and runs of white space become one space; an empty text is null. A price is null
    unless it is a finite number from 0 up, a rank unless it is a whole number from 1 up.
    """
    kept, rejected = [], []
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            rejected.append((index, "not an object"))
        elif (item_id := id_of(_find(row, mapping.item_id))) is None:
            rejected.append((index, "no item_id"))
        else:
            kept.append(_item(item_id, row, mapping))
    columns = zip(*kept, strict=True) if kept else [()] * len(ITEMS)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, ITEMS, strict=True)]
    return pa.Table.from_arrays(arrays, schema=ITEMS), rejected


def _item(item_id: str, row: dict[str, Any], mapping: ItemColumns) -> tuple[Any, ...]:
    """Return one item's values in the order of `schemas.ITEMS`."""
    rank, ranked_in = rank_of(_find(row, mapping.sales_rank))
    return (
        item_id,
        text_of(_find(row, mapping.title)),
        text_of(_find(row, mapping.brand)),
        price_of(_find(row, mapping.price)),
        text_of(_first(_find(row, mapping.category))),
        ranked_in or text_of(_find(row, mapping.sales_category)),
        rank,
        ids_of(_find(row, mapping.also_viewed)),
    )


def _find(row: dict[str, Any], path: str | None) -> Any:
    """Return the value at a path, or None. A column whose name is the whole path comes first."""
    if path is None:
        return None
    if path in row:
        return row[path]
    value: Any = row
    for step in steps_of(path):
        value = _opened(value)
        if isinstance(step, str):
            value = value.get(step) if isinstance(value, dict) else None
        else:
            value = value[step] if isinstance(value, (list, tuple)) and step < len(value) else None
    return value


def _opened(value: Any) -> Any:
    """Parse a list or an object that a delimited file or a parquet column holds as text."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return parse_literal(value.encode())
        except ValueError:
            return value
    return value


def _first(value: Any) -> Any:
    for _ in range(2):
        value = _opened(value)
        if isinstance(value, (list, tuple)):
            value = value[0] if value else None
    return value


def text_of(value: Any) -> str | None:
    """Decode entities and collapse white space; None if nothing is left."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # a book may be called 1984
    if not isinstance(value, str):
        return None
    text = " ".join((html.unescape(value) if "&" in value else value).split())
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which Arrow cannot hold
        text = text.encode("utf-8", "replace").decode()
    return text or None


def id_of(value: Any) -> str | None:
    """Return an item's id as reviews have it: a text without what exports add, or a whole number; None for all else."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 63:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return plain(value) or None


def ids_of(value: Any) -> list[str] | None:
    value = _opened(value)
    return [i for v in value if (i := id_of(v)) is not None] if isinstance(value, (list, tuple)) else None


def price_of(value: Any) -> float | None:
    """Return a finite price from 0 up, or None. "$1,299.00" is a price; "$5 - $10", "from 10.99", "None" are not."""
    if isinstance(value, str):
        match = _PRICE.fullmatch(value.strip())
        value = float(match[1].replace(",", "")) if match else None
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        return None
    try:
        price = float(value)
    except (OverflowError, ValueError):
        return None
    return price + 0.0 if math.isfinite(price) and price >= 0 else None  # + 0.0: no -0.0


def rank_of(value: Any) -> tuple[int | None, str | None]:
    """Return the (first) sales rank and its category, each None if unknown."""
    value = _opened(value)
    if isinstance(value, dict):
        # Parquet gives each record all the keys of the file, null where it has none.
        return next(((_whole(v), text_of(k)) for k, v in value.items() if v is not None), (None, None))
    for entry in value if isinstance(value, (list, tuple)) else [value]:
        if match := _RANK.search(text_of(entry) or "") if isinstance(entry, str) else None:
            return _whole(match[1]), match[2].strip() or None
        if (rank := _whole(entry)) is not None:
            return rank, None
    return None, None


def _whole(value: Any) -> int | None:
    if isinstance(value, str):
        digits = value.strip().replace(",", "")
        value = int(digits) if re.fullmatch(r"[0-9]{1,19}", digits) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1:
        return None
    return int(value) if 1 <= value < 1 << 63 else None

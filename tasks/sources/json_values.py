"""Parse one JSON value as releases write it; values that no table can hold become null."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

MAX_DEPTH = 100  # deeper than any record of a shop; json and polars give up on 1,000 levels


TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"


_SURROGATE = re.compile("[\ud800-\udfff]")


def _constant(name: str) -> float | None:
    """Return null for NaN, which data frames write for a missing value, and the float for the infinities."""
    return None if name == "NaN" else float(name)


# Not strict: control characters inside strings stay.
DECODER = json.JSONDecoder(strict=False, parse_constant=_constant)


def parse_json(line: bytes) -> Any:
    """Parse one JSON value. NaN is null, Infinity a number; invalid UTF-8 and halves of surrogate pairs become U+FFFD.

    Raises ValueError with the reason.
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        value = _parse_tolerantly(line)
        has_huge_float(value)
        return value
    # orjson rounds integers beyond 64 bits; one user's number must not become another's.
    return _parse_tolerantly(line) if has_huge_float(value) else value


def _parse_tolerantly(line: bytes) -> Any:
    text = line.decode("utf-8", errors="replace").strip("\ufeff \t\r\n")
    try:
        value = DECODER.decode(text)
        return mend(value) if "\\u" in text else value
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} (character {error.pos + 1:,})") from None
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except ValueError as error:  # an integer of more than 4,300 digits
        raise ValueError(f"not JSON: {error}") from None


def mend(value: Any) -> Any:
    """Replace each half of a surrogate pair by U+FFFD, in keys too."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [mend(v) for v in value]
    if isinstance(value, dict):
        return {mend(k): mend(v) for k, v in value.items()}
    return value


def has_huge_float(value: Any) -> bool:
    """Whether the value holds a float that may have been an integer beyond 64 bits. Raises ValueError if too deep."""
    huge = False
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        inside: list[Any] = []
        for container in level:
            for v in container.values() if type(container) is dict else container:
                kind = type(v)
                if kind is float:
                    huge = huge or not -9e18 < v < 9e18
                elif kind is dict or kind is list:
                    inside.append(v)
        if not inside:
            return huge
        level = inside
    raise ValueError(TOO_DEEP)

"""Split a line that holds several JSON objects, as where files without a last line break were joined."""

from __future__ import annotations

import json
import re
from typing import Any

from tasks.sources.json_values import DECODER, TOO_DEEP, has_huge_float, mend

JOINED = re.compile(r"\}\s*\{")
_SEVERAL = re.compile(r"\}[\s,]*(?:\{|,\s*\Z)")
_BETWEEN = re.compile(r"[\s,\ufeff]*")


def split(line: bytes) -> list[tuple[Any, str]]:
    """Return each object of a line and "", or a text and why it is none; nothing if the line does not hold several.

    A comma after an object, as in a list without its brackets, is dropped."""
    text = line.decode("utf-8", errors="replace")
    if not _SEVERAL.search(text):
        return []
    found: list[tuple[Any, str]] = []
    at = _end_of(_BETWEEN, text, 0)
    while at < len(text):
        try:
            value, end = DECODER.raw_decode(text, at)
            has_huge_float(value)
        except json.JSONDecodeError as error:
            if found:
                found.append((text[at:], f"not JSON: {error.msg} (character {error.pos + 1:,})"))
            return found
        except (RecursionError, ValueError) as error:
            return [*found, (text[at:], TOO_DEEP if isinstance(error, RecursionError) else str(error))] if found else []
        if not isinstance(value, dict):
            return [*found, (text[at:], "not JSON: Extra data")] if found else []
        found.append((mend(value) if "\\u" in text else value, ""))
        at = _end_of(_BETWEEN, text, end)
    return found


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at

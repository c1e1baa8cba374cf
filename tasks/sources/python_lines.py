"""Parse reviews that are written as Python literals, one a line."""

from __future__ import annotations

from typing import Any

from tasks.sources.item_records import parse_literal, parse_python
from tasks.sources.json_values import has_huge_float, mend, parse_json


def parse_record(line: bytes) -> Any:
    """Parse one line of JSON or one Python literal, without evaluating anything, to values that JSON has.

    Bytes invalid in UTF-8 become U+FFFD. Raises ValueError with the reason."""
    if line.lstrip()[:2] == b'{"':
        try:
            return parse_json(line)
        except ValueError:
            pass
    text = line.decode("utf-8", "replace").strip("\ufeff \t\r\n")
    value = parse_literal(text.encode())
    # An integer beyond 64 bits may have become a float.
    return _as_json(parse_python(text) if has_huge_float(value) else value)


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {mend(key) if isinstance(key, str) else str(key): _as_json(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_as_json(v) for v in value), key=str)
    return mend(value)

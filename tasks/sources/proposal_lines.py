"""Write the YAML of a proposed profile, with the doubts as comments."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import yaml

from tasks.sources.column_guesses import NO, YES, Column
from tasks.sources.day_order import swapped
from tasks.sources.profiles import MANDATORY, Profile, Quoting
from tasks.sources.rating_guesses import rule_line

MADE_UP_DAY = "2000-01-01"


def profile_lines(
    mapped: dict[str, Column],
    pair: Column | None,
    description: str,
    header: Sequence[str],
    quoting: Quoting | None,
    ending: str,
) -> list[str]:
    lines = [f"description: {scalar(description)}", "columns:"]
    lines += [f"  {canonical}: {scalar(column.name)}" for canonical, column in mapped.items()]
    constants, defaults = [], []
    if "item_id" not in mapped:
        constants.append('  item_id: "unknown"            # no column names the item: all rows get this one')
    if "timestamp" not in mapped:
        constants.append(f'  timestamp: "{MADE_UP_DAY}"       # no column holds dates: a split by time cannot work')
    if "text" not in mapped:
        defaults.append('  text: ""                      # no column holds texts')
    elif mapped["text"].null_share:
        defaults.append('  text: ""                      # some reviews have stars only')
    lines += ["constants:", *constants] if constants else []
    lines += ["defaults:", *defaults] if defaults else []
    if "user_id" not in mapped:
        lines.append("missing_user: anonymous         # no column names the reviewer: each review gets its own")
    elif mapped["user_id"].null_share > 0.01:
        lines.append("missing_user: anonymous         # each review without a name gets its own reviewer")
    if words := sorted({w for name, c in mapped.items() if name in MANDATORY for w in c.null_words}):
        lines.append(f"nulls: {_flow(words)}")
    guess = mapped["rating"].rating_guess
    if guess and not guess.plain:
        lines.append(rule_line(guess, [scalar(mapped["rating"].example)]))
    times = mapped["timestamp"].times if "timestamp" in mapped else None
    if "timestamp" not in mapped:
        lines.append('timestamp: {formats: ["%Y-%m-%d"]}')
    elif times and times.unit:
        lines.append(f"timestamp: {{unit: {times.unit}}}")
    elif times and times.formats:
        lines.append(formats_line(times.formats, times.ambiguous, times.pattern, times.months))
    if pair is not None:
        lines.append(f"votes: {{pair: {scalar(pair.name)}}}")
    if "verified" in mapped and set(mapped["verified"].texts.str.to_lowercase()) - {"true", "false"}:
        lines.append(f'flags: {{"true": {json.dumps(YES)}, "false": {json.dumps(NO)}}}')
    if quoting is not None:
        lines += _quoting_lines(quoting, ending)
    if header:
        lines.append(f"header: {_flow(header)}")
    return lines


def formats_line(
    formats: Sequence[str], ambiguous: bool = False, pattern: str | None = None, months: Sequence[str] = ()
) -> str:
    doubt = "   # or is the day first? every value fits both" if ambiguous else ""
    if any(swapped(f) in formats for f in formats):
        doubt = "   # both orders occur: each file is judged by its own days above 12"
    within = f", pattern: {scalar(pattern)}" if pattern else ""
    named = f", months: {_flow(months)}" if months else ""
    return f"timestamp: {{formats: {_flow(formats)}{within}{named}}}{doubt}"


def encoding_lines(encoding: str, others: Sequence[str]) -> list[str]:
    if encoding == "utf-8":
        return []
    doubt = f"; or is it {' or '.join(others)}" if others else ""
    return [f"encoding: {encoding}   # guessed from the bytes{doubt}: do the texts read well?"]


def _quoting_lines(quoting: Quoting, ending: str) -> list[str]:
    """Write the `csv` or `tsv` section, whichever reads files of this ending; nothing where the default does."""
    section = {".csv": "csv", ".tsv": "tsv"}.get(ending, "tsv" if quoting.delimiter == "\t" else "csv")
    default = getattr(Profile(description="", columns={}), section)
    changed = {k: v for k, v in quoting.model_dump(exclude={"escape"}).items() if v != getattr(default, k)}
    if not changed:
        return []
    inside = ", ".join(f"{k}: {'null' if v is None else scalar(v)}" for k, v in sorted(changed.items()))
    return [f"{section}: {{{inside}}}"]


def _flow(values: Sequence[str]) -> str:
    return f"[{', '.join(scalar(v) for v in values)}]"


def scalar(value: str) -> str:
    """Write any text as YAML on one line."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value) and yaml.safe_load(value) == value:
        return value
    # Not safe_dump: other libraries change how it writes texts of several lines, for the whole process.
    node = yaml.ScalarNode("tag:yaml.org,2002:str", value, style='"')
    dumped: Any = yaml.serialize(node, Dumper=yaml.SafeDumper, allow_unicode=True, width=1 << 30)
    return str(dumped).strip()

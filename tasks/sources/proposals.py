"""Propose a dataset profile for columns that no shipped one fits, by their names first, then by their values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from tasks.domain.schemas import REVIEWS
from tasks.sources.column_guesses import NO, YES, Column
from tasks.sources.day_order import swapped
from tasks.sources.profiles import MANDATORY, Profile, Quoting
from tasks.sources.rating_guesses import rule_line

MADE_UP_DAY = "2000-01-01"

# Other names of each canonical column, in lower case without spaces, the surest first.
_SYNONYMS = """
review_id      reviewid id commentid uuid
user_id        userid reviewerid customerid authorid memberid buyerid profileid user reviewer customer author username
               reviewername authorname customername profilename
item_id        itemid productid parentasin asin sku gtin ean isbn bookid movieid appid businessid asins item product
               productname itemname producttitle itemtitle model
rating         rating starrating stars star overall score overallrating ratingvalue rate
title          title summary headline subject
text           text body content comment comments review message feedback opinion
timestamp      timestamp unixreviewtime date datetime time createdat created postedat posted publishedat submissiontime
               submittedat dateadded updatedat
helpful_votes  helpfulvotes helpfulvote helpful helpfulcount helpfulnessnumerator numhelpful vote votes upvotes likes
               thumbsup
total_votes    totalvotes totalvote helpfulnessdenominator votestotal totalvotecount
verified       verifiedpurchase verified isverified verifiedbuyer didpurchase
category       category productcategory maincategory department genre
"""
SYNONYMS = {canonical: names.split() for canonical, names in re.findall(r"^(\w+)((?: .*\n)+)", _SYNONYMS, flags=re.M)}
_OF_THE_ITEM = {"product", "item"}

# What a column must hold to become each canonical one.
_CAN_BE: dict[str, Callable[[Column], bool]] = {
    "review_id": lambda c: not c.nested and c.distinct_share > 0.999 and c.null_share < 0.01,
    "user_id": lambda c: not c.nested and not c.flag and c.mean_chars < 60,
    "item_id": lambda c: not c.nested and not c.flag and c.mean_chars < 300,
    "rating": lambda c: c.rating or c.rating_guess is not None,
    "title": lambda c: not c.nested and not c.times and not c.numeric and not c.flag,
    "text": lambda c: not c.nested and not c.times and not c.numeric and not c.flag,
    "timestamp": lambda c: c.times is not None,
    "helpful_votes": lambda c: c.counts,
    "total_votes": lambda c: c.counts,
    "verified": lambda c: c.flag,
    "category": lambda c: not c.nested and not c.times and not c.numeric and c.distinct_share < 0.5,
}


@dataclass(frozen=True)
class Proposal:
    """`text` is the YAML; `profile` is what `load_profile` reads from it."""

    text: str
    profile: Profile


def propose(
    columns: Sequence[Column],
    *,
    description: str,
    header: Sequence[str] = (),
    quoting: Quoting | None = None,
    ending: str = "",
    encoding: str = "utf-8",
) -> Proposal | str:
    """Return a profile for these columns, or why none is possible. `header` names them if files have no header row."""
    filled = [c for c in columns if len(c.values)]
    pair = next((c for c in filled if c.pairs), None)
    mapped = _mapped(filled, nameless=bool(header) and _is_made_up(header))
    if pair is not None:
        mapped = {k: c for k, c in mapped.items() if k not in ("helpful_votes", "total_votes") and c is not pair}
    if "rating" not in mapped:
        near = [c.name for c in filled if _by_name("rating", c.name) and c.numeric]
        hint = f"; {near[0]!r} is not within 1 to 5" if near else ""
        return f"no column holds ratings from 1 to 5{hint}"
    if "text" not in mapped and "title" in mapped and mapped["title"].mean_chars > 60:
        mapped["text"] = mapped.pop("title")
    lines = _lines(mapped, pair, description, header, quoting, ending, encoding)
    unread = [c for c in filled if _by_name("timestamp", c.name) and c.texts.str.contains(r"\d").any()]
    if "timestamp" not in mapped and unread:
        name, example = _scalar(unread[0].name), _scalar(unread[0].example[:60])
        lines.insert(0, f"# {name} may hold dates in an unknown format, such as {example}: if so, map it to")
        lines.insert(1, "# timestamp, and give the format in timestamp.formats")
    text = "\n".join(lines) + "\n"
    return Proposal(text, Profile.model_validate(yaml.safe_load(text)))


def with_both_orders(proposal: Proposal) -> Proposal:
    """Return the proposal with the formats that lack it in the other order of day and month, too."""
    formats = proposal.profile.timestamp.formats
    every = tuple(dict.fromkeys([*formats, *(other for f in formats if (other := swapped(f)))]))
    pattern = proposal.profile.timestamp.pattern
    new = _formats_line(every, pattern=pattern)
    lines = [new if line.startswith("timestamp:") else line for line in proposal.text.splitlines()]
    text = "\n".join(lines) + "\n"
    return Proposal(text, Profile.model_validate(yaml.safe_load(text)))


def _formats_line(formats: Sequence[str], ambiguous: bool = False, pattern: str | None = None) -> str:
    doubt = "   # or is the day first? every value fits both" if ambiguous else ""
    if any(swapped(f) in formats for f in formats):
        doubt = "   # both orders occur: each file is judged by its own days above 12"
    within = f", pattern: {_scalar(pattern)}" if pattern else ""
    return f"timestamp: {{formats: {_flow(formats)}{within}}}{doubt}"


def _mapped(columns: Sequence[Column], nameless: bool) -> dict[str, Column]:
    """Map each canonical column to the source column that fits it best; no source column serves twice."""
    scored = []
    for canonical in SYNONYMS:
        for column in columns:
            score = _by_name(canonical, column.name)
            if score and _CAN_BE[canonical](column):
                odd = canonical == "rating" and not column.rating
                scored.append((score - 30 * column.null_share - 20 * odd, canonical, column))
    mapped: dict[str, Column] = {}
    for _, canonical, column in sorted(scored, key=lambda s: -s[0]):
        if canonical not in mapped and all(column is not c for c in mapped.values()):
            mapped[canonical] = column
    for canonical, by_content in _BY_CONTENT.items():
        if canonical in mapped or (canonical == "title" and not nameless):
            continue
        free = [c for c in columns if all(c is not m for m in mapped.values()) and not _is_known(c.name)]
        if canonical == "user_id" and "item_id" not in mapped:
            free = _without_one(free)
        if best := by_content(free):
            mapped[canonical] = best
    return {name: mapped[name] for name in REVIEWS.names if name in mapped}


def _rating_among(free: list[Column]) -> Column | None:
    ratings = [c for c in free if c.rating and 2 <= c.values.n_unique() <= 41 and not c.times]
    # Numbers on another scale may be anything; words are found without a name, too.
    spelt = [c for c in free if not c.numeric and c.rating_guess and c.texts.str.contains(r"[^\d.,\s]").all()]
    return max(ratings, key=lambda c: c.values.n_unique(), default=next(iter(spelt), None))


def _time_among(free: list[Column]) -> Column | None:
    return next((c for c in free if c.times is not None), None)


def _text_among(free: list[Column]) -> Column | None:
    texts = [c for c in free if _CAN_BE["text"](c) and c.mean_chars >= 30 and not c.id_like]
    return max(texts, key=lambda c: c.mean_chars, default=None)


def _title_among(free: list[Column]) -> Column | None:
    titles = [c for c in free if _CAN_BE["title"](c) and 5 <= c.mean_chars <= 150 and not c.id_like]
    titles = [c for c in titles if c.texts.str.contains(" ").mean() > 0.3]  # type: ignore[operator]
    return max(titles, key=lambda c: c.distinct_share, default=None)


def _ids_among(free: list[Column]) -> list[Column]:
    """List the columns of ids, the one with the most distinct values first."""
    ids = [c for c in free if c.id_like and not c.times]
    return sorted(ids, key=lambda c: -c.distinct_share)


def _without_one(free: list[Column]) -> list[Column]:
    """Leave out the least varied column of ids, the items': an item has many reviews."""
    ids = _ids_among(free)
    return [c for c in free if not ids or c is not ids[-1]]


def _first_among(free: list[Column]) -> Column | None:
    return next(iter(_ids_among(free)), None)


def _unique_among(free: list[Column]) -> Column | None:
    # Not a number: a row's number in its file is not unique across files.
    ids = [c for c in _ids_among(free) if len(c.values) > 20 and not c.numeric]
    return next((c for c in ids if _CAN_BE["review_id"](c)), None)


_BY_CONTENT: dict[str, Callable[[list[Column]], Column | None]] = {
    "timestamp": _time_among,
    "rating": _rating_among,
    "text": _text_among,
    "title": _title_among,
    "review_id": _unique_among,
    "user_id": _first_among,
    "item_id": _first_among,
}


def _words(name: str) -> list[str]:
    """Split a column's name into words: "unixReviewTime" is unix, review, time."""
    return [w.lower() for w in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_a-zA-Z]+|\d+", name)]


def _by_name(canonical: str, name: str) -> int:
    """Score how surely a column of this name is the canonical one: 0 (not) to 100."""
    words = _words(name)
    synonyms: Sequence[str] = SYNONYMS[canonical]
    for prefix in ([], ["review"], ["reviews"], ["customer", "review"]):
        if words[: len(prefix)] == prefix and (key := "".join(words[len(prefix) :])) in synonyms:
            return 100 - synonyms.index(key) - len(prefix)
    if words and words[-1] in synonyms and canonical != "review_id" and not _OF_THE_ITEM & set(words):
        return 50 - synonyms.index(words[-1])  # the last word is the noun: "date" in "first posted date"
    return 0


def _is_known(name: str) -> bool:
    return any(_by_name(canonical, name) for canonical in SYNONYMS)


def _is_made_up(header: Sequence[str]) -> bool:
    return all(re.fullmatch(r"column_\d+", name) for name in header)


def _lines(
    mapped: dict[str, Column],
    pair: Column | None,
    description: str,
    header: Sequence[str],
    quoting: Quoting | None,
    ending: str,
    encoding: str,
) -> list[str]:
    lines = [f"description: {_scalar(description)}", "columns:"]
    lines += [f"  {canonical}: {_scalar(column.name)}" for canonical, column in mapped.items()]
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
        lines.append(rule_line(guess, [_scalar(mapped["rating"].example)]))
    times = mapped["timestamp"].times if "timestamp" in mapped else None
    if "timestamp" not in mapped:
        lines.append('timestamp: {formats: ["%Y-%m-%d"]}')
    elif times and times.unit:
        lines.append(f"timestamp: {{unit: {times.unit}}}")
    elif times and times.formats:
        lines.append(_formats_line(times.formats, times.ambiguous, times.pattern))
    if pair is not None:
        lines.append(f"votes: {{pair: {_scalar(pair.name)}}}")
    if "verified" in mapped and set(mapped["verified"].texts.str.to_lowercase()) - {"true", "false"}:
        lines.append(f'flags: {{"true": {json.dumps(YES)}, "false": {json.dumps(NO)}}}')
    if encoding != "utf-8":
        lines.append(f"encoding: {encoding}")
    if quoting is not None:
        lines += _quoting_lines(quoting, ending)
    if header:
        lines.append(f"header: {_flow(header)}")
    return lines


def _quoting_lines(quoting: Quoting, ending: str) -> list[str]:
    """Write the `csv` or `tsv` section, whichever reads files of this ending; nothing where the default does."""
    section = {".csv": "csv", ".tsv": "tsv"}.get(ending, "tsv" if quoting.delimiter == "\t" else "csv")
    default = getattr(Profile(description="", columns={}), section)
    changed = {k: v for k, v in quoting.model_dump().items() if v != getattr(default, k)}
    if not changed:
        return []
    inside = ", ".join(f"{k}: {'null' if v is None else _scalar(v)}" for k, v in sorted(changed.items()))
    return [f"{section}: {{{inside}}}"]


def _flow(values: Sequence[str]) -> str:
    return f"[{', '.join(_scalar(v) for v in values)}]"


def _scalar(value: str) -> str:
    """Write any text as YAML on one line."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value) and yaml.safe_load(value) == value:
        return value
    # Not safe_dump: other libraries change how it writes texts of several lines, for the whole process.
    node = yaml.ScalarNode("tag:yaml.org,2002:str", value, style='"')
    dumped: Any = yaml.serialize(node, Dumper=yaml.SafeDumper, allow_unicode=True, width=1 << 30)
    return str(dumped).strip()

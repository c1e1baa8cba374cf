"""Propose a dataset profile for columns that no shipped one fits, by their names first, then by their values."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import yaml

from tasks.domain.schemas import REVIEWS
from tasks.sources.column_guesses import Column
from tasks.sources.day_order import swapped
from tasks.sources.profiles import Profile, Quoting
from tasks.sources.proposal_lines import encoding_lines, formats_line, profile_lines, scalar

# Other names of each canonical column, in lower case without spaces, the surest first.
_SYNONYMS = """
review_id      reviewid id commentid uuid
user_id        userid reviewerid customerid authorid memberid buyerid profileid user reviewer customer author username
               reviewername authorname customername profilename consumerid usersid
item_id        itemid productid parentasin asin sku gtin ean isbn bookid movieid appid businessid asins item product
               productname itemname producttitle itemtitle packagename appname app model
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
_OPINIONS = {"sentiment", "polarity", "label", "recommended", "recommend", "recommendation", "voted", "liked", "thumbs"}

# What a column must hold to become each canonical one.
_CAN_BE: dict[str, Callable[[Column], bool]] = {
    # A row number is an id in one file only.
    "review_id": lambda c: (
        not c.nested
        and c.distinct_share > 0.999
        and c.null_share < 0.01
        and (not c.counts_rows or "review" in c.name.lower())
    ),
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
    other_encodings: Sequence[str] = (),
    several_files: bool = False,
) -> Proposal | str:
    """Return a profile for these columns, or why none is possible. `header` names them if files have no header row."""
    # A column without a name holds what its writer added, such as row numbers.
    filled = [
        c for c in columns if len(c.values) and not _is_nameless(c.name) and not (several_files and c.counts_rows)
    ]
    pair = next((c for c in filled if c.pairs), None)
    mapped = _mapped(filled, nameless=bool(header) and _is_made_up(header))
    if pair is not None:
        mapped = {k: c for k, c in mapped.items() if k not in ("helpful_votes", "total_votes") and c is not pair}
    if "rating" not in mapped:
        near = [c for c in filled if _by_name("rating", c.name) and c.numeric]
        opinions = [*near, *(c for c in filled if set(_words(c.name)) & _OPINIONS)]
        hint = f"; {near[0].name!r} is not within 1 to 5" if near else ""
        hint = _opinion_hint(opinions) or hint
        return f"no column holds ratings from 1 to 5{hint}"
    if "text" not in mapped and "title" in mapped and mapped["title"].mean_chars > 60:
        mapped["text"] = mapped.pop("title")
    lines = profile_lines(mapped, pair, description, header, quoting, ending) + encoding_lines(
        encoding, other_encodings
    )
    unread = [c for c in filled if _by_name("timestamp", c.name) and c.texts.str.contains(r"\d").any()]
    if "timestamp" not in mapped and unread:
        name, example = scalar(unread[0].name), scalar(unread[0].example[:60])
        lines.insert(0, f"# {name} may hold dates in an unknown format, such as {example}: if so, map it to")
        lines.insert(1, "# timestamp, and give the format in timestamp.formats")
    text = "\n".join(lines) + "\n"
    return Proposal(text, Profile.model_validate(yaml.safe_load(text)))


def _opinion_hint(columns: Sequence[Column]) -> str:
    """Name the first column that tells good from bad in two or three values, and how a profile can read it."""
    for column in columns:
        values = sorted(column.texts.str.to_lowercase().unique().to_list())
        middle = [value for value in values if value in ("neutral", "mixed", "0")][: len(values) - 2]
        # In English the alphabet has bad before good: negative, not recommended, no, false, dislike, 0.
        ends = [value for value in values if value not in middle]
        if len(ends) == 2:
            stars = {ends[0]: 1, **dict.fromkeys(middle, 3), ends[1]: 5}
            pairs = ", ".join(f"{scalar(value)}: {n}" for value, n in stars.items())
            return f"; {column.name!r} may be an opinion: `rating: {{values: {{{pairs}}}}}` in a profile reads it"
    return ""


def with_both_orders(proposal: Proposal) -> Proposal:
    """Return the proposal with the formats that lack it in the other order of day and month, too."""
    formats = proposal.profile.timestamp.formats
    every = tuple(dict.fromkeys([*formats, *(other for f in formats if (other := swapped(f)))]))
    pattern = proposal.profile.timestamp.pattern
    new = formats_line(every, pattern=pattern, months=proposal.profile.timestamp.months)
    lines = [new if line.startswith("timestamp:") else line for line in proposal.text.splitlines()]
    text = "\n".join(lines) + "\n"
    return Proposal(text, Profile.model_validate(yaml.safe_load(text)))


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
        free = [c for c in columns if all(c is not m for m in mapped.values())]
        free = [c for c in free if not _is_known(c.name) and not c.inside]
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
    ids = [c for c in free if (c.id_like or _is_called_id(c)) and not c.times and not c.ascends]
    return sorted(ids, key=lambda c: -c.distinct_share)


def _is_nameless(name: str) -> bool:
    return re.fullmatch(r"\s*|Unnamed: \d+", name) is not None


def _is_called_id(column: Column) -> bool:
    words = _words(column.name)
    return len(words) > 1 and words[-1] in ("id", "code", "key") and not column.nested and not column.flag


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
    words = _words(re.sub(r"\.\$(?:oid|number\w+)$", "", name))  # MongoDB's types
    synonyms: Sequence[str] = SYNONYMS[canonical]
    for prefix in ([], ["review"], ["reviews"], ["customer", "review"]):
        if words[: len(prefix)] == prefix and (key := "".join(words[len(prefix) :])) in synonyms:
            return 100 - synonyms.index(key) - len(prefix)
    of_the_item = canonical != "item_id" and _OF_THE_ITEM & set(words)
    if words and words[-1] in synonyms and canonical != "review_id" and not of_the_item:
        return 50 - synonyms.index(words[-1])  # the last word is the noun: "date" in "first posted date"
    return 0


def _is_known(name: str) -> bool:
    return any(_by_name(canonical, name) for canonical in SYNONYMS)


def _is_made_up(header: Sequence[str]) -> bool:
    return all(re.fullmatch(r"column_\d+", name) for name in header)

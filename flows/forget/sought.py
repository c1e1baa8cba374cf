"""What is sought when users are forgotten: their names, the ids of their reviews, and the beginnings of their texts.

The last two come from the snapshots that hold the users' reviews, and stay in memory. There may be many thousands:
they are first sought all at once (Aho and Corasick, 1975, in Polars), then those that occur as whole words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from html import escape

import polars as pl

from flows.forget import rejected

SHORTEST = 6  # characters of a name that is sought in texts
TEXT_CHARS, SHORTEST_TEXT = 60, 25  # what pages quote of a text begins with its beginning; "Great!" is anybody's
GONE = "[forgotten]"
# Before a name, in JSON also after an escaped character: "\tNAME" has a letter before it.
BORDER = r"(?:(?<![\w-])|(?<=\\[nrtbf])|(?<=\\u[0-9a-fA-F]{4}))"


@dataclass
class Sought:
    """users: as in the column `user_id`. reviews: their ids. texts: beginnings of titles and texts, long enough.
    user_fields: the columns of rejected records that hold the user."""

    users: frozenset[str]
    reviews: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    user_fields: frozenset[str] = field(default_factory=rejected.user_fields)

    @property
    def common_names(self) -> int:
        return sum(not is_distinct(user) for user in self.users)

    def learn(self, rows: pl.DataFrame) -> None:
        """Take over the ids and texts of rows of these users."""
        if "review_id" in rows.columns:
            self.reviews.update(rows["review_id"].drop_nulls().to_list())
        for column in {"title", "text"} & set(rows.columns):
            for text in rows[column].drop_nulls().to_list():
                begun = " ".join(text[: 4 * TEXT_CHARS].split())[:TEXT_CHARS]
                self.texts.update(t for t in (text[:TEXT_CHARS], begun) if len(t) >= SHORTEST_TEXT)
        for known in ("_names", "_either"):
            self.__dict__.pop(known, None)

    def of_rows(self, columns: Iterable[str]) -> pl.Expr | None:
        """Return what is true of these users' rows in a table with such columns; None if it does not say."""
        names, tests = set(columns), []
        if "user_id" in names:
            tests.append(pl.col("user_id").is_in(list(self.users)))
        elif "review_id" in names:
            tests.append(pl.col("review_id").is_in(list(self.reviews)))
        if "record" in names:  # rejected rows as JSON, or as they were
            tests.append(pl.col("record").map_batches(self._rejected, return_dtype=pl.Boolean))
            tests.append(pl.col("record").map_batches(self.in_each, return_dtype=pl.Boolean))
        return pl.any_horizontal(tests).fill_null(False) if tests else None

    def _rejected(self, records: pl.Series) -> pl.Series:
        """Tell of each rejected record whether it is one of the users'."""
        once = {form for user in self.users for form in _forms(user)}
        twice = {form for one in once for form in _forms(one)}  # a long row is a JSON text within one
        maybe = records.str.contains_any(sorted(twice)).fill_null(False)
        theirs = [
            m and rejected.is_of(record, self.users, self.user_fields) for m, record in zip(maybe, records, strict=True)
        ]
        return pl.Series(theirs, dtype=pl.Boolean)

    @cached_property
    def _names(self) -> set[str]:
        """Names, which are sought as whole words, as they may stand in a log, in JSON and on a page."""
        return {f for name in {*self.users, *self.reviews} if is_distinct(name) for f in _forms(name)}

    @cached_property
    def _either(self) -> list[str]:
        return sorted(self._names | {form for text in self.texts for form in _forms(text)})

    def in_each(self, texts: pl.Series) -> pl.Series:
        """Tell of each text whether it betrays one of the users."""
        if not self._either:
            return pl.Series([False] * len(texts), dtype=pl.Boolean)
        maybe = texts.str.contains_any(self._either).fill_null(False)
        return pl.Series(
            [m and self.pattern_in(t) is not None for m, t in zip(maybe, texts, strict=True)], dtype=pl.Boolean
        )

    def pattern_in(self, text: str) -> re.Pattern[str] | None:
        """Return a pattern of all that betrays the users in a text; None if nothing does."""
        if not self._either:
            return None
        whole = text.encode("utf-8", "replace").decode()  # half a surrogate pair is not text
        hits = pl.Series([whole]).str.extract_many(self._either, overlapping=True)[0].unique().to_list()
        names, texts = [h for h in hits if h in self._names], [h for h in hits if h not in self._names]
        parts = [rf"{BORDER}(?:{_any(names)})(?![\w-])"] if names else []
        parts += [_any(texts)] if texts else []
        pattern = re.compile("|".join(parts)) if parts else None
        return pattern if pattern and pattern.search(text) else None

    def cleaned(self, text: str) -> str:
        pattern = self.pattern_in(text)
        return pattern.sub(GONE, text) if pattern else text


def is_distinct(name: str) -> bool:
    """Tell whether a name can be sought in any text: a number or a word would be found by chance, and destroyed."""
    return len(name) >= SHORTEST and bool(re.search(r"[^\W\d_]", name) and re.search(r"\d", name))


def _forms(text: str) -> set[str]:
    return {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], escape(text)}


def _any(texts: Iterable[str]) -> str:
    return "|".join(re.escape(text) for text in sorted(texts, key=lambda text: (-len(text), text)))

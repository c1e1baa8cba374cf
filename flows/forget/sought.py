"""What is sought when users are forgotten: their names, the ids of their reviews, and the beginnings of their texts.

The last two come from the snapshots that hold the users' reviews, and stay in memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from html import escape

import polars as pl

SHORTEST = 4  # characters; a shorter name would be found by chance in any log
TEXT_CHARS, SHORTEST_TEXT = 60, 25  # what pages quote of a text begins with its beginning; "Great!" is anybody's
GONE = "[forgotten]"


@dataclass
class Sought:
    """users: as in the column `user_id`. reviews: their ids. texts: beginnings of titles and texts, long enough."""

    users: frozenset[str]
    reviews: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)

    @property
    def short_names(self) -> int:
        return sum(len(user) < SHORTEST for user in self.users)

    def learn(self, rows: pl.DataFrame) -> None:
        """Take over the ids and texts of rows of these users."""
        if "review_id" in rows.columns:
            self.reviews.update(rows["review_id"].drop_nulls().to_list())
        for column in {"title", "text"} & set(rows.columns):
            for text in rows[column].drop_nulls().to_list():
                begun = " ".join(text[: 4 * TEXT_CHARS].split())[:TEXT_CHARS]
                self.texts.update(t for t in (text[:TEXT_CHARS], begun) if len(t) >= SHORTEST_TEXT)
        self.__dict__.pop("pattern", None)

    def of_rows(self, columns: Iterable[str]) -> pl.Expr | None:
        """Return what is true of these users' rows in a table with such columns; None if it does not say."""
        names, tests = set(columns), []
        if "user_id" in names:
            tests.append(pl.col("user_id").is_in(list(self.users)))
        elif "review_id" in names:
            tests.append(pl.col("review_id").is_in(list(self.reviews)))
        if "record" in names:  # rejected rows as JSON, or as they were
            quoted = "|".join(re.escape(json.dumps(user, ensure_ascii=False)) for user in sorted(self.users))
            bare = "|".join(re.escape(user) for user in sorted(self.users) if len(user) >= SHORTEST)
            tests.append(pl.col("record").str.contains(quoted))
            if bare:
                tests.append(pl.col("record").str.contains(rf"(?:^|[^\w-])(?:{bare})(?:$|[^\w-])"))
        return pl.any_horizontal(tests).fill_null(False) if tests else None

    @cached_property
    def pattern(self) -> re.Pattern[bytes]:
        """What betrays these users in a file that is no table; nothing of a name that is too short."""
        names = {word for word in {*self.users, *self.reviews} if len(word) >= SHORTEST}
        words = {form for name in names for form in _forms(name)}
        texts = {form for text in self.texts for form in _forms(text)}
        either = [rf"(?<![\w-])(?:{_any(words)})(?![\w-])"] if words else []
        either += [_any(texts)] if texts else []
        return re.compile("|".join(either).encode() if either else rb"(?!)")

    def cleaned(self, text: str) -> str:
        return self.pattern.sub(GONE.encode(), text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")


def _forms(text: str) -> set[str]:
    """Return a text as it may stand in a log or a database, in JSON and on a page."""
    return {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], escape(text)}


def _any(texts: Iterable[str]) -> str:
    return "|".join(re.escape(text) for text in sorted(texts, key=lambda text: (-len(text), text)))

"""Take the rows of users to forget out of what a reader yields (`tasks.sources.forgotten`)."""

from __future__ import annotations

import re
from dataclasses import replace

import polars as pl
import pyarrow as pa

from tasks.sources.canonical import ANONYMOUS, user_ids
from tasks.sources.forgotten import Forgotten
from tasks.sources.profiles import Profile
from tasks.sources.readers import Batch

_FIELDS = re.compile(r'[",;|\t{}\[\]\n]+')


def without(batch: Batch, profile: Profile, forgotten: Forgotten) -> tuple[Batch, int]:
    """Take their rows out of a batch of reviews; returns the others, and how many are gone.

    A record that could not be parsed is theirs if one of its fields, or a word in it, is a user's name.
    """
    named = user_ids(batch.frame, profile)
    theirs = named.is_in(list(forgotten.among(named.drop_nulls().unique().to_list()))).fill_null(False)
    bad = [record for record in batch.bad if not forgotten.among(words_of(record.text))]
    gone = int(theirs.sum()) + len(batch.bad) - len(bad)
    if not gone:
        return batch, 0
    return replace(batch, frame=batch.frame.filter(~theirs), numbers=batch.numbers[(~theirs).to_numpy()], bad=bad), gone


def without_anonymous(reviews: pa.Table, forgotten: Forgotten) -> pa.Table:
    """Take out the reviews of users without a name, whom a profile names after their reviews."""
    users = pl.Series("user_id", pl.from_arrow(reviews["user_id"]))
    named = users.filter(users.str.starts_with(ANONYMOUS)).unique().to_list()
    theirs = users.is_in(list(forgotten.among(named)))
    return reviews.filter((~theirs).to_arrow()) if theirs.any() else reviews


def words_of(text: str) -> set[str]:
    """Return what may be a user's name in a record that is no row: its fields, and its words."""
    fields = {part.strip().strip("'") for part in _FIELDS.split(text)}
    return (fields | set(re.findall(r"[\w-]+", text))) - {""}

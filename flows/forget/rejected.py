"""Tell whose a rejected record is: a row as a JSON object, or a JSON text of a record that could not be parsed.

It is told as ingest tells it (`tasks.sources.left_out_users`): a row is its user's, whatever its other fields hold.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any

from tasks.core.errors import ProfileError
from tasks.domain.ids import plain
from tasks.sources.left_out_users import words_of
from tasks.sources.profiles import known_profiles, load_profile


def user_fields(*profiles: str) -> frozenset[str]:
    """Return the source columns that are the user in these dataset profiles and in those of conf/datasets."""
    found = set()
    for name in {*known_profiles(), *profiles}:
        with suppress(ProfileError):  # one that no run can use
            found.add(load_profile(name).columns.get("user_id", "user_id").lower())
    return frozenset(found)


def is_of(record: str, users: Collection[str], fields: Collection[str]) -> bool:
    """Tell whether a record is one of these users' (names as in `user_id`).

    fields: names of columns with the user, in small letters. Of an object without any of them each field counts.
    """
    try:
        content = json.loads(record)
    except ValueError:
        content = record
    if not isinstance(content, dict):
        return not words_of(str(content)).isdisjoint(users)
    named = [value for name, value in content.items() if name.lower() in fields] or list(content.values())
    return any(plain(value) in users for value in _texts(named))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif value is not None:
        yield str(value)

"""Rejected records: whose they are, and names behind escaped characters."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest

from flows.forget.rejected import user_fields
from flows.forget.sought import Sought
from tasks.sources.forgotten import Forgotten
from tasks.sources.left_out_users import words_of

BY_WORD, NUMBER = "NELLIE7", "12076615"
FIELDS = ["US", "{user}", "R1", "B1", "x"]


def is_found(record: str, user: str) -> bool:
    test = Sought(frozenset({user})).of_rows(["record"])
    assert test is not None
    return len(pl.DataFrame({"record": [record]}).filter(test)) == 1


@pytest.mark.parametrize("user", [BY_WORD, NUMBER, "Jane Doe", "né-7"])
@pytest.mark.parametrize("between", ["\t", ",", '","', "|", "\n"])
def test_a_line_that_could_not_be_parsed_is_its_users_as_ingest_sees_it(user: str, between: str) -> None:
    line = between.join(FIELDS)
    assert Forgotten().with_users([user], []).among(words_of(line.format(user=user))) == {user}
    assert is_found(json.dumps(line.format(user=user), ensure_ascii=False), user)
    assert not is_found(json.dumps(line.format(user=f"{user}0")), user)


@pytest.mark.parametrize(
    ("row", "theirs"),
    [
        ({"user_id": 12076615}, True),
        ({"user_id": "12076615.0"}, True),
        ({"customer_id": 12076615.0, "star_rating": "x"}, True),
        ({"UserId": ' ="12076615"', "votes": 1}, True),
        ({"user_id": "9", "votes": "12076615"}, False),  # another's, with their number
        ({"user_id": None, "item_id": "12076615"}, False),
        ({"buyer": {"number": 12076615}}, True),  # nobody knows what is what here
        ({"buyer": 120766150}, False),
    ],
)
def test_a_row_is_the_users_that_its_column_of_users_names(row: dict[str, Any], theirs: bool) -> None:
    assert is_found(json.dumps(row), NUMBER) == theirs
    assert is_found(json.dumps(json.dumps(row)[:60]), NUMBER) == ("12076615" in words_of(json.dumps(row)[:60]))


def test_the_columns_are_those_of_all_profiles_and_of_one_that_is_given(tmp_path: Any) -> None:
    profile = tmp_path / "mine.yaml"
    columns = {"user_id": "Buyer", "item_id": "i", "rating": "r", "text": "t", "timestamp": "at"}
    profile.write_text(json.dumps({"description": "mine", "columns": columns}))
    assert {"userid", "reviewerid", "customer_id", "user_id", "buyer"} == user_fields(str(profile), "none-such")


@pytest.mark.parametrize("before", ["a\n", "a\t", "“", "\x00", "", " ", "("])
def test_a_name_behind_an_escaped_character_is_a_word(before: str) -> None:
    sought = Sought(frozenset({BY_WORD}))
    text = json.dumps({"message": f"{before}{BY_WORD} was here"})
    assert sought.cleaned(text) == text.replace(BY_WORD, "[forgotten]")
    assert sought.cleaned(json.dumps(f"{before}x{BY_WORD}")) == json.dumps(f"{before}x{BY_WORD}")

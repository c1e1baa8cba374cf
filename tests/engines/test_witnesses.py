"""Rows that stand for all: Great Expectations finds the same in them as in the whole frame."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.engines import validator, witnesses
from tasks.engines.suites import Expectation
from tasks.engines.validator import Piece, Validator

SCHEMA = pa.schema([("i", pa.int64()), ("f", pa.float32()), ("t", pa.string()), ("a", pa.int64()), ("b", pa.int32())])
EXPECTED = [
    Expectation("expect_column_values_to_be_between", {"column": "i", "min_value": 0}),
    Expectation("expect_column_values_to_be_between", {"column": "i", "min_value": 0, "max_value": 8, "mostly": 0.5}),
    Expectation("expect_column_values_to_be_between", {"column": "f", "min_value": 1, "max_value": 5}),
    Expectation("expect_column_values_to_be_between", {"column": "f", "max_value": 5, "strict_max": True}),
    Expectation("expect_column_value_lengths_to_be_between", {"column": "t", "max_value": 3}),
    Expectation("expect_column_values_to_not_be_null", {"column": "i"}),
    Expectation("expect_column_values_to_not_be_null", {"column": "f"}),
    Expectation("expect_column_values_to_be_in_set", {"column": "t", "value_set": ["", "a", "b", "ab"]}),
    Expectation("expect_column_values_to_be_in_set", {"column": "i", "value_set": [0, 1, 2, 3]}),
    Expectation("expect_column_values_to_be_unique", {"column": "t"}),
    Expectation("expect_column_values_to_be_unique", {"column": "i"}),
    Expectation("expect_column_pair_values_a_to_be_greater_than_b", {"column_A": "a", "column_B": "b"}),
    Expectation(
        "expect_column_pair_values_a_to_be_greater_than_b", {"column_A": "a", "column_B": "b", "or_equal": True}
    ),
    Expectation("expect_column_pair_values_a_to_be_greater_than_b", {"column_A": "a", "column_B": "i"}),
    Expectation("expect_column_values_to_not_match_regex", {"column": "t", "regex": "b(?:b|c)+"}),
    Expectation("expect_column_values_to_not_match_regex", {"column": "t", "regex": "a", "mostly": 0.5}),
    Expectation("expect_column_values_to_not_match_regex", {"column": "t", "regex": "^bb"}),
    Expectation("expect_column_values_to_match_regex", {"column": "t", "regex": "^a*$"}),
]


@pytest.fixture(scope="module")
def judge() -> Validator:
    return Validator()


def checked(judge: Validator, table: pa.Table, file: Path, frame_rows: int) -> list[dict[str, Any]]:
    pq.write_table(table, file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validator, "FRAME_ROWS", frame_rows)
        return judge.check(EXPECTED, [Piece(str(file), (0,), 0, table.num_rows)], "here")


def table_of(seed: int) -> pa.Table:
    """Up to 12 rows. Of later seeds fewer values are missing or out of range."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 13))

    def drawn(usual: list[Any], odd: list[Any]) -> list[Any]:
        return [(odd if rng.random() < 0.5 / (1 + seed) else usual)[int(rng.integers(2))] for _ in range(n)]

    return pa.table(
        {
            "i": drawn([0, 3], [-1, None]),
            "f": drawn([1.0, 5.0], [float("nan"), 5.5]),
            "t": drawn(["a", "ab"], ["bbbb", None]),
            "a": rng.integers(0, 9, n),
            "b": rng.integers(0, 3 if seed % 2 else 9, n),
        }
    ).cast(SCHEMA)


@pytest.mark.parametrize("seed", [0, 1, 2, 4, 7])
def test_parts_by_witnesses_are_those_by_all_rows(judge: Validator, tmp_path: Path, seed: int) -> None:
    table = table_of(seed)
    every = checked(judge, table, tmp_path / "a.parquet", 10**9)
    for most_failing in (0, 1, 3):  # how many rows that fail are taken for witnesses, too
        assert checked(judge, table, tmp_path / "a.parquet", most_failing) == every


def test_rows_that_fail_are_found_and_shown_without_the_others(
    judge: Validator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = 200
    columns = {"i": [-5 if row in (30, 170) else row for row in range(n)], "f": [1.0] * n, "a": [7] * n, "b": [3] * n}
    table = pa.table({**columns, "t": ["abab" if row == 42 else "a" for row in range(n)]}).select(SCHEMA.names)
    frames: list[int] = []
    whole = Validator._check_frame
    monkeypatch.setattr(
        Validator,
        "_check_frame",
        lambda self, some, frame, *rest: frames.append(len(frame)) or whole(self, some, frame, *rest),
    )
    found = [
        Expectation("expect_column_values_to_be_between", {"column": "i", "min_value": 0, "mostly": 0.9}),
        *EXPECTED[4:5],
    ]
    pq.write_table(table.cast(SCHEMA), tmp_path / "a.parquet", row_group_size=100)
    pieces = [Piece(str(tmp_path / "a.parquet"), (group,), 100 * group, 100) for group in (0, 1)]
    monkeypatch.setattr(validator, "FRAME_ROWS", 5)
    parts = judge.check(found, pieces, "here")
    assert frames == [5]
    assert [part["result"]["unexpected_count"] for part in parts] == [2, 1]
    assert [part["result"]["element_count"] for part in parts] == [n, n]
    assert [(example["value"], example["row"]) for part in parts for example in part["examples"]] == [
        (-5, 30), (-5, 170), ("abab", 42)
    ]  # fmt: skip


def test_a_table_that_holds_is_judged_by_a_few_rows(
    judge: Validator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = 2_000
    columns = {"i": range(n), "f": [1.0, 5.0] * (n // 2), "t": ["a", "ab"] * (n // 2), "a": [7] * n, "b": [3] * n}
    frames: list[int] = []
    whole = Validator._check_frame

    def spy(self: Validator, expectations: Any, frame: Any, *rest: Any) -> Any:
        frames.append(len(frame))
        return whole(self, expectations, frame, *rest)

    monkeypatch.setattr(Validator, "_check_frame", spy)
    parts = checked(judge, pa.table(columns).cast(SCHEMA), tmp_path / "a.parquet", 100)
    assert frames[0] < 10
    assert {part["result"]["element_count"] for part in parts} == {n}


SHARED = [
    r"\s\s",
    r"</?(?:a|br)(?:\s[^<>]*)?/?>",
    r"[^\s<]b",
    r"(a|b)+\*?",
    r"[a-b\s]x",
    r"\\s",
    r"a*?b",
    r"a\.b|\[b\]",
]
OTHER = [
    r"^a",
    r"a$",
    r"a.b",
    r"\d",
    r"\bb",
    r"a{2}",
    r"(?i)a",
    r"(?=a)b",
    r"(?P<n>a)",
    r"(a)\1",
    r"[[:alpha:]]",
    r"[\w]",
]


@given(text=st.text(st.sampled_from("ab <>/\\s.x*[]\n\t\x1c\x1f\x85\xa0\u2028\u3000é"), max_size=8))
def test_arrow_finds_what_python_finds(text: str) -> None:
    for regex in SHARED:
        pattern = witnesses.for_re2(regex)
        assert pattern is not None, regex
        found = pc.match_substring_regex(pa.array([text]), pattern)[0].as_py()
        assert found == (re.search(regex, text) is not None), regex


@pytest.mark.parametrize("regex", OTHER)
def test_what_the_two_may_not_take_for_the_same_is_left_to_python(regex: str) -> None:
    assert witnesses.for_re2(regex) is None


def test_white_space_is_pythons() -> None:
    signs = [chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]
    found = pc.match_substring_regex(pa.array(signs), witnesses.for_re2(r"\s")).to_pylist()
    assert [sign for sign, white in zip(signs, found, strict=True) if white] == [s for s in signs if s.isspace()]


def test_a_repetition_that_only_python_knows_is_left_to_it() -> None:
    expectation = Expectation("expect_column_values_to_not_match_regex", {"column": "t", "regex": "a++b"})
    assert witnesses.witnesses(expectation, pa.table({"t": ["x", "aab"]})) is None

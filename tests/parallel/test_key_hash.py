"""The hash of a key: the same for ever, however the column is laid out, and even."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.algorithms.splitmix import GOLDEN
from tasks.parallel.key_hash import key_hash, partition_by_hash

WORDS = ["", "a", "é", "eight888", "nine99999", "x" * 15, "x" * 16, "x" * 17, "日本" * 1000, "a\x00", "\x00"]


def test_the_hash_of_a_key_never_changes() -> None:
    # It decides which file a record is in: with another value here, digests of committed outputs change.
    records = pa.table({"s": ["", "a", "é", "nine99999"], "i": pa.array([0, 1, -1, 2**31 - 1], pa.int32())})
    assert [f"{h:016x}" for h in key_hash(records, ("s",))] == [
        "0000000000000000",
        "adb2a194834b0125",
        "055bb6d5187ca409",
        "2d93f95be465cdfc",
    ]
    assert [f"{h:016x}" for h in key_hash(records, ("i",))][1:] == [
        "7ab40e090f363a7d",
        "4bffd802ebfb15e4",
        "1c20b14bdc7c2097",
    ]
    assert f"{key_hash(records, ('s', 'i'))[1]:016x}" == "a9c7e8c013206870"


def mixed(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


@given(st.lists(st.one_of(st.text(max_size=40), st.text("\x00a", max_size=20)), max_size=8))
def test_the_hash_of_a_string_is_a_polynomial_over_its_words(strings: list[str]) -> None:
    def expected(data: bytes) -> int:
        words = [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)]
        total = len(data) + sum(word * GOLDEN**power for power, word in enumerate(words, start=1))
        return mixed(mixed(total % 2**64))

    records = pa.table({"s": pa.array(strings, pa.string())})
    assert list(key_hash(records, ("s",))) == [expected(s.encode()) for s in strings]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_the_hash_of_a_string_depends_on_its_bytes_alone(kind: pa.DataType, monkeypatch: Any) -> None:
    whole = pa.chunked_array([pa.array(WORDS, kind)])
    alone = [key_hash(pa.table({"s": pa.array([w])}), ("s",))[0] for w in WORDS]
    assert len(set(alone)) == len(WORDS)
    assert list(key_hash(pa.table({"s": whole}), ("s",))) == alone
    assert list(key_hash(pa.table({"s": whole.slice(3)}), ("s",))) == alone[3:]
    monkeypatch.setattr("tasks.parallel.key_hash.ROWS_AT_ONCE", 2)
    assert (
        list(key_hash(pa.table({"s": pa.chunked_array([*whole.slice(0, 5).chunks, *whole.slice(5).chunks])}), ("s",)))
        == alone
    )


def test_the_hash_of_an_integer_depends_on_its_value_alone() -> None:
    numbers = [-128, -1, 0, 1, 127]
    hashes = [
        list(key_hash(pa.table({"i": pa.array(numbers, kind)}), ("i",))) for kind in (pa.int8(), pa.int32(), pa.int64())
    ]
    assert hashes[0] == hashes[1] == hashes[2]
    unsigned = pa.table({"i": pa.array([2**64 - 1, 1], pa.uint64())})
    assert len(set(key_hash(unsigned, ("i",)))) == 2


@pytest.mark.parametrize("key", [("s",), ("i",), ("s", "i")])
def test_keys_are_spread_evenly(key: tuple[str, ...]) -> None:
    number = np.arange(40_000)
    records = pa.table({"s": [f"user-{n:08d}" for n in number], "i": number * 1024})
    parts = partition_by_hash(records, key, 7)
    assert sum(part.num_rows for part in parts) == 40_000
    expected = 40_000 / 7
    assert all(abs(part.num_rows - expected) < 6 * expected**0.5 for part in parts)

"""Digests: one value has one spelling, and another value has another digest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.digests import CHUNK_BYTES, canonical_json, digest_of, file_sha256

TEXT = st.text(st.characters(codec="utf-8"), max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text("abcdef", max_size=3), VALUES))
def test_the_order_in_which_keys_were_set_does_not_matter(value: dict[str, Any]) -> None:
    assert digest_of(dict(reversed(list(value.items())))) == digest_of(value)


def test_the_spelling_is_fixed_for_good() -> None:
    # Another spelling would change the keys of all existing snapshots.
    value = {"b": [1, 2.5, None, True], "a": "é☃"}
    assert canonical_json(value) == '{"a":"é☃","b":[1,2.5,null,true]}'.encode()
    assert digest_of(value) == hashlib.sha256(canonical_json(value)).hexdigest()


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (1, "1"), (None, "null"), ([1, 2], [2, 1]), ({}, []), ("", None)])
def test_different_values_have_different_digests(one: Any, other: Any) -> None:
    assert digest_of(one) != digest_of(other)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}])
def test_what_json_cannot_say_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        digest_of(value)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_file_digest_is_the_sha256_of_all_its_bytes(tmp_path: Path, size: int) -> None:
    data = bytes(i % 251 for i in range(size))
    (tmp_path / "file").write_bytes(data)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()

"""Our fast way to GPT-2's ids against transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.errors import SettingsError
from tasks.engines import tokenizer


@pytest.fixture(scope="module")
def gpt2() -> Any:
    return tokenizer.load("gpt2")


def ids(encode: Any, gpt2: Any, texts: list[str]) -> list[list[int]]:
    return encode(gpt2, pl.Series(texts, dtype=pl.String)).to_pylist()


FRAGMENTS = st.sampled_from(
    ["'s", "'LL", "’t", " ", "  ", "\n", "\t", "\u00a0", "\u3000", "\x1c", "\x85", "don", "12", "½"]
)
TEXTS = st.lists(FRAGMENTS | st.text(max_size=5), max_size=10).map("".join)


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(TEXTS, max_size=5))
def test_ids_are_transformers_own(gpt2: Any, texts: list[str]) -> None:
    expected = [gpt2.encode(t) for t in texts]
    assert ids(tokenizer.encode_gpt2, gpt2, texts) == expected
    assert ids(tokenizer.encode, gpt2, texts) == expected


@pytest.mark.parametrize("text", ["The end <|endoftext|> or not", "<|endoftext|>", "two  blanks <|endoftext|>"])
def test_the_spelling_of_a_special_token_is_encoded_one_way(gpt2: Any, text: str) -> None:
    assert ids(tokenizer.encode_gpt2, gpt2, [text]) == ids(tokenizer.encode, gpt2, [text]) == [gpt2.encode(text)]


def test_no_text_and_empty_texts_have_no_ids(gpt2: Any) -> None:
    assert ids(tokenizer.encode_gpt2, gpt2, []) == []
    assert ids(tokenizer.encode_gpt2, gpt2, ["", "a", ""]) == [[], [64], []]


def test_a_folder_that_is_missing_or_no_tokenizer_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no tokenizer folder"):
        tokenizer.load(str(tmp_path / "none"))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(SettingsError):
        tokenizer.load(str(tmp_path))

"""Texts cut by classes of characters, against the regular expressions they stand for."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.algorithms import pretokens
from tasks.engines import tokenizer

WORD = r"\w+(?:['’]\w+)*"
FRAGMENTS = st.one_of(
    st.sampled_from(
        ["'s", "'ll", "'LL", "'re", "’t", "'", "''", "’", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u2003", "\u3000"]
    ),
    st.sampled_from(
        ["\x1c", "\x85", "\x00", "don", "12", "½", "_", "٣", "é", "e\u0301", "灯", "😀", "👩\u200d👧", "שלום", "!?"]
    ),
)
TEXTS = st.lists(st.lists(FRAGMENTS | st.text(max_size=3), max_size=12).map("".join), max_size=6)


@pytest.fixture(scope="module")
def gpt2_own() -> Any:
    """The tokenizers library's own cutting, as the pieces of a text."""
    cut = tokenizer.load("gpt2").backend_tokenizer.pre_tokenizer.pre_tokenize_str
    return lambda text: [text[start:end] for _, (start, end) in cut(text)]


@pytest.fixture(scope="module")
def gpt2_classes() -> pretokens.Classes:
    return pretokens.Classes(pretokens.GPT2_CLASSES)


def as_lists(cut: pretokens.Pieces) -> list[list[str]]:
    ends = np.cumsum(cut.counts).tolist()
    found = cut.text.to_pylist()
    assert len(found) == (ends[-1] if ends else 0)
    return [found[end - n : end] for end, n in zip(ends, cut.counts.tolist(), strict=True)]


def strings(texts: list[str]) -> pl.Series:
    return pl.Series(texts, dtype=pl.String)


@given(texts=TEXTS)
def test_gpt2_pieces_are_those_of_the_tokenizers_library(
    gpt2_own: Any, gpt2_classes: pretokens.Classes, texts: list[str]
) -> None:
    cut = as_lists(pretokens.gpt2_pieces(strings(texts), gpt2_classes))
    assert cut == [gpt2_own(text) for text in texts]
    assert ["".join(of_text) for of_text in cut] == texts


@pytest.mark.nightly
def test_every_character_of_unicode_is_cut_as_the_tokenizers_library_cuts_it(
    gpt2_own: Any, gpt2_classes: pretokens.Classes
) -> None:
    texts = [f"a{c}1!{c}" for c in map(chr, range(sys.maxunicode + 1)) if not "\ud800" <= c <= "\udfff"]
    cut = as_lists(pretokens.gpt2_pieces(strings(texts), gpt2_classes))
    wrong = [text[1] for text, got in zip(texts, cut, strict=True) if got != gpt2_own(text)]
    assert wrong == []


@given(texts=TEXTS)
def test_words_are_the_matches_of_the_regular_expression(texts: list[str]) -> None:
    expected = strings(texts).str.extract_all(WORD).to_list()
    assert as_lists(pretokens.words(strings(texts), pretokens.Classes(pretokens.WORD_CLASSES))) == expected


@given(texts=TEXTS)
def test_words_of_letters_and_digits_are_pythons_words_too(texts: list[str]) -> None:
    plain = [re.sub(r"[^A-Za-z0-9_' .,!\n-]", "", text) for text in texts]
    expected = [re.findall(WORD, text) for text in plain]
    assert as_lists(pretokens.words(strings(plain), pretokens.Classes(pretokens.WORD_CLASSES))) == expected


@given(texts=TEXTS, size=st.integers(1, 40))
def test_chunks_are_all_rows_in_order_and_no_larger_than_asked_but_for_single_texts(
    texts: list[str], size: int
) -> None:
    slices = list(pretokens.chunks(strings(texts), size))
    assert [row for s in slices for row in range(s.start, s.stop)] == list(range(len(texts)))
    for s in slices:
        assert s.stop == s.start + 1 or sum(len(t.encode()) for t in texts[s]) <= size


def test_a_series_that_is_a_slice_of_another_is_cut_alone(gpt2_classes: pretokens.Classes) -> None:
    texts = strings(["one two", "thrée four", "five", "", "six"])
    assert as_lists(pretokens.gpt2_pieces(texts[1:4], gpt2_classes)) == [["thrée", " four"], ["five"], []]
    assert as_lists(pretokens.words(texts[3:], pretokens.Classes(pretokens.WORD_CLASSES))) == [[], ["six"]]

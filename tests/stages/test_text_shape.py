"""The form of texts against its definition, and what makes two texts the same."""

from __future__ import annotations

import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.stages.features import text_shape
from tasks.stages.features.columns import as_series
from tasks.stages.features.text_shape import TEXT_SHAPE, shape, text_digest

UPPER, LOWER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz"


def defined(text: str) -> dict[str, float | None]:
    words = [w for w in re.split(r"[\t\n\v\f\r ]+", text) if w]
    capitals, small = (sum(c in letters for c in text) for letters in (UPPER, LOWER))
    shouted = [w for w in words if sum(c in UPPER for c in w) >= 2 and not any(c in LOWER for c in w)]
    chars, some = max(len(text), 1), max(len(words), 1)
    return {
        "n_chars": len(text),
        "exclamations": 100 * text.count("!") / chars,
        "questions": 100 * text.count("?") / chars,
        "capitals": capitals / max(capitals + small, 1),
        "digits": 100 * sum(c in "0123456789" for c in text) / chars,
        "word_chars": sum(map(len, words)) / len(words) if words else None,
        "shouted": len(shouted) / some,
        "stretched": 100 * len(re.findall(r"([A-Za-z])\1\1+", text)) / some,
    }


def measured(texts: list[str]) -> pl.DataFrame:
    return pl.DataFrame(as_series(shape(pl.Series(texts, dtype=pl.String))))


@given(st.lists(st.text("aAbO!?19 é灯\n", max_size=30), max_size=12), st.integers(1, 40))
def test_every_number_is_the_defined_one_however_texts_are_cut_into_chunks(texts: list[str], chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_shape, "CHUNK_BYTES", chunk)
        found = measured(texts)
    assert found.schema == dict.fromkeys(TEXT_SHAPE, pl.Float32)
    for text, row in zip(texts, found.to_dicts(), strict=True):
        assert row == pytest.approx(defined(text)), text


@pytest.mark.parametrize(
    "said", ["soo", "aa a", "ooo", "sooo goood", "HELP me NOW", "I AM", "x" * 50, "o oo", "AAAaaa"]
)
def test_stretched_and_shouted_words_and_what_is_none(said: str) -> None:
    # Neighbours end and begin with the same letter: no run may span two texts.
    (_, row, _) = measured(["oo", said, "oo"]).to_dicts()
    assert row == pytest.approx(defined(said))


def test_texts_are_the_same_but_for_case_and_white_space_and_an_empty_one_is_like_no_other() -> None:
    same = ["Très  bon,\n lamp", " très bon, LAMP", "TRÈS BON, lamp\u00a0"]
    other = ["très bon lamp", "trèsbon, lamp"]
    digests = text_digest(pl.Series([*same, *other, "", " "])).to_list()
    assert len(set(digests[:3])) == 1
    assert len(set(digests)) == 4
    assert digests[5:] == [None, None]


def test_a_digest_is_the_same_on_every_machine_and_with_every_version() -> None:
    assert text_digest(pl.Series(["A lamp"])).to_list() == [int.from_bytes(bytes.fromhex("8e6270491484c19d"), "little")]

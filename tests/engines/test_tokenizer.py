"""Our fast way to token ids against transformers' own, and the tokenizers that users bring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import SettingsError
from tasks.engines import tokenizer

FRAGMENTS = st.sampled_from(
    ["'s", "'LL", "’t", " ", "  ", "\n", "\t", "\u00a0", "\u3000", "\x1c", "\x85", "don", "12", "½", "<|endoftext|>"]
)
TEXTS = st.lists(FRAGMENTS | st.text(max_size=5), max_size=10).map("".join)


@pytest.fixture(scope="module")
def gpt2() -> Any:
    return tokenizer.load("gpt2")


@pytest.fixture(scope="module")
def encoder() -> Any:
    """One encoder for all tests, since it caches the pieces of earlier texts."""
    made = tokenizer.encoder(tokenizer.recipe("gpt2").made)
    assert isinstance(made, tokenizer.PieceEncoder)
    return made


def strings(texts: list[str]) -> pl.Series:
    return pl.Series(texts, dtype=pl.String)


@given(texts=st.lists(TEXTS, max_size=5))
def test_ids_are_transformers_own(gpt2: Any, encoder: Any, texts: list[str]) -> None:
    expected = [gpt2.encode(t) for t in texts]
    assert encoder(strings(texts)).to_pylist() == expected
    assert tokenizer.encode(gpt2.backend_tokenizer, strings(texts)).to_pylist() == expected


@pytest.mark.parametrize("text", ["The end <|endoftext|> or not", "<|endoftext|>", "two  blanks <|endoftext|>"])
def test_the_spelling_of_a_special_token_is_encoded_as_transformers_does(gpt2: Any, encoder: Any, text: str) -> None:
    assert encoder(strings(["before", text, "after"])).to_pylist() == [
        gpt2.encode("before"), gpt2.encode(text), gpt2.encode("after")
    ]  # fmt: skip


def test_no_text_and_empty_texts_have_no_ids(encoder: Any) -> None:
    assert encoder(strings([])).to_pylist() == []
    assert encoder(strings(["", "a", ""])).to_pylist() == [[], [64], []]
    assert encoder(strings([" ", "\n\n \t"])).to_pylist() == [[220], tokenizer.load("gpt2").encode("\n\n \t")]


def test_a_text_of_ten_megabytes_is_encoded_like_any_other(gpt2: Any, encoder: Any) -> None:
    unit = "Sound is great, isn't it? 灯 "
    ids = encoder(strings(["short", unit * (10_000_000 // len(unit.encode())), "short"]))
    assert ids[0] == ids[2]
    assert ids[1].as_py()[:200] == gpt2.encode(unit * 50)[:200]
    assert gpt2.decode(ids[1].as_py()) == unit * (10_000_000 // len(unit.encode()))


def test_an_encoder_that_knows_too_much_starts_anew_and_says_the_same(
    gpt2: Any, encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "MOST_KNOWN", 3)
    for text in ("one two three four", "two five", "one two three four six"):
        assert encoder(strings([text])).to_pylist() == [gpt2.encode(text)]


def own_tokenizer(folder: Path, **changes: Any) -> str:
    """A byte-level BPE tokenizer trained on nothing but a few words, saved as users save theirs."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=changes.get("add_prefix_space", False))
    made.decoder = decoders.ByteLevel()
    if changes.get("lower"):
        made.normalizer = normalizers.Lowercase()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if changes.get("all_bytes", True) else []
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<eos>"], initial_alphabet=alphabet)
    made.train_from_iterator(["the cat sat on the mat", "The cats sat"] * 5, trainer)
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>").save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("changes", "fast"),
    [({}, True), ({"add_prefix_space": True}, False), ({"lower": True}, False), ({"all_bytes": False}, False)],
)
def test_a_tokenizer_of_the_users_is_taken_the_fast_way_only_where_that_is_exact(
    tmp_path: Path, changes: dict[str, Any], fast: bool
) -> None:
    name = own_tokenizer(tmp_path, **changes)
    recipe = tokenizer.recipe(name)
    encoder = tokenizer.encoder(recipe.made)
    assert isinstance(encoder, tokenizer.PieceEncoder) == fast
    texts = ["The cat's on  the MAT<eos>", "", "灯 the"]
    assert encoder(strings(texts)).to_pylist() == [
        tokenizer.load(name).encode(t, add_special_tokens=False) for t in texts
    ]
    assert recipe.end_of_text == tokenizer.load(name).eos_token_id is not None


def test_a_folder_that_is_missing_or_no_tokenizer_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no tokenizer folder"):
        tokenizer.load(str(tmp_path / "none"))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(SettingsError):
        tokenizer.load(str(tmp_path))


def test_the_files_that_decide_the_ids_are_those_of_the_tokenizer_alone(tmp_path: Path) -> None:
    name = own_tokenizer(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert {file.name for file in tokenizer.files_of(name)} == {"tokenizer.json", "tokenizer_config.json"}
    assert tokenizer.files_of("gpt2") == tokenizer.files_of("nobody/has-this") == []


def test_an_empty_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "vocab.json").write_text(json.dumps({"<|endoftext|>": 0}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(SettingsError, match="empty"):
        tokenizer.load(str(tmp_path))

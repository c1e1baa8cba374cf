"""Clean texts: the steps, in few passes, on only the rows that need them.

Three quarters of real reviews are plain ASCII without a tag, a link or a run of blanks. Detecting that takes a few
milliseconds per 10,000 reviews (searches for literal bytes); Unicode normalisation and the regular expressions on all
rows take 30 times as long (docs/decisions).
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.algorithms.pretokens import text_bytes
from tasks.domain.stated_stars import STATED
from tasks.stages.clean.settings import CleanConfig

TAG = r"<[a-zA-Z/!][^>]*>"
URL = r"(?i:https?://|www\.)[^\s<]+"
# An ampersand encoded as an entity any number of times: "&amp;amp;amp;" would take a round for each.
AMPERSANDS = re.compile(r"&(?:(?:amp|AMP|#0*38(?![0-9])|#[xX]0*26(?![0-9a-fA-F]));?)+")
FEW = 64  # texts
ROUNDS = 50  # no real text needs three; one crafted to need thousands stays partly encoded


def tidy_text(texts: pl.Series, config: CleanConfig) -> pl.Series:
    """Normalise a column of texts. Each step of `config` that is on holds for the result; repeating changes nothing.

    normalize_unicode  NFC: one spelling for é
    decode_entities    HTML entities, until none is left: "&amp;lt;" is "<"
    remove_html        tags become a space; "<3" and "a < b" are text
    remove_urls        http://…, https://…, www.… become a space
    remove_control     control characters become a space
    collapse_spaces    white space of any kind and length becomes one space, none at the ends
    remove_stated_stars  phrases such as "4.0 out of 5 stars" become a space
    """
    if not _are_plain(texts):
        texts = _normal(texts, config)
    if config.remove_stated_stars:
        texts = _without_stars(texts, config)
    return texts.str.strip_chars(" ") if config.collapse_spaces else texts


def _are_plain(texts: pl.Series) -> bool:
    """Whether a few texts are as `_normal` would leave them, whatever the settings. Of many hardly ever all are.

    A look at the bytes: each call of Polars takes longer than all that a single text needs.
    """
    if len(texts) > FEW:
        return False
    data, _ = text_bytes(texts)
    if len(data) and (data.min() < 32 or data.max() > 126):
        return False
    whole = data.tobytes()
    return not any(sign in whole for sign in (b"&", b"<", b"  ", b"://")) and b"www." not in whole.lower()


def _normal(texts: pl.Series, config: CleanConfig) -> pl.Series:
    if config.normalize_unicode:
        texts = _on(texts, ~_ascii(texts), lambda some: some.str.normalize("NFC"))
    if config.decode_entities:
        texts = _on(texts, texts.str.contains("&", literal=True), lambda some: _decoded(some, config))
    patterns = _patterns(config)
    if patterns:
        texts = _on(texts, _needs(texts, config), lambda some: _replaced(some, patterns, config))
    return texts


def _ascii(texts: pl.Series) -> pl.Series:
    """Mark the texts that are ASCII, and so in NFC already."""
    return texts.str.len_bytes() == texts.str.len_chars()


def _on(texts: pl.Series, mask: pl.Series, function: Callable[[pl.Series], pl.Series]) -> pl.Series:
    """Apply `function` to the texts in the mask."""
    if not mask.any():
        return texts
    # Series.scatter writes into its own series, and this one is the caller's.
    return texts.clone().scatter(mask.arg_true(), function(texts.filter(mask)))


def _patterns(config: CleanConfig) -> list[str]:
    blanks = []
    if config.remove_control and config.collapse_spaces:
        blanks = [r"[\s\p{Cc}]{2,}|[^\S ]|\p{Cc}"]
    elif config.collapse_spaces:
        blanks = [r"\s{2,}|[^\S ]"]
    elif config.remove_control:
        blanks = [r"\p{Cc}"]
    return [TAG] * config.remove_html + [URL] * config.remove_urls + blanks


def _replaced(texts: pl.Series, patterns: list[str], config: CleanConfig) -> pl.Series:
    texts = texts.str.replace_all("|".join(patterns), " ")
    # A removed piece may leave two spaces side by side.
    return texts.str.replace_all(" {2,}", " ") if config.collapse_spaces else texts


def _without_stars(texts: pl.Series, config: CleanConfig) -> pl.Series:
    """Remove statements of the stars until none is left: removing one can put together another."""
    for _ in range(ROUNDS):
        if config.collapse_spaces:
            texts = texts.str.strip_chars(" ")
        states = texts.str.contains(STATED)
        if not states.any():
            break
        texts = _on(texts, states, lambda some: _replaced(some, [STATED], config))
    return texts


def _needs(texts: pl.Series, config: CleanConfig) -> pl.Series:
    """Mark the texts that a pattern may match: all that do, and few that do not."""
    needs = _beyond_printable_ascii(texts)
    if config.remove_html:
        needs |= texts.str.contains("<", literal=True)
    if config.remove_urls:
        needs |= texts.str.contains("://", literal=True) | texts.str.contains(r"(?i)www\.")
    if config.collapse_spaces:
        needs |= texts.str.contains("  ", literal=True)
    return needs


def _beyond_printable_ascii(texts: pl.Series) -> pl.Series:
    """Mark the texts with a byte outside 32..126, as control characters and white space other than the space have."""
    column = texts.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.large_string())
    starts = np.frombuffer(column.buffers()[1], dtype=np.int64)[column.offset : column.offset + len(column) + 1]
    data = column.buffers()[2]
    mask = np.zeros(len(column), dtype=bool)
    if data is not None and len(column):
        text = np.frombuffer(data, dtype=np.uint8)[: starts[-1]]
        positions = np.flatnonzero(text - np.uint8(32) > 94)  # unsigned: bytes below 32 wrap to the top
        positions = positions[positions >= starts[0]]
        mask[np.searchsorted(starts, positions, side="right") - 1] = True
    return pl.Series(mask)


def _decoded(texts: pl.Series, config: CleanConfig) -> pl.Series:
    """Decode HTML entities until none is left. Decoding and NFC can each enable the other."""
    texts, rows = texts.clone(), pl.arange(len(texts), eager=True)
    for _ in range(ROUNDS):
        before = texts.gather(rows)
        decoded = pl.Series(texts.name, [html.unescape(AMPERSANDS.sub("&", t)) for t in before], dtype=pl.String)
        if config.normalize_unicode:
            # Polars' Unicode tables, not Python's: alternating two versions of NFC would not be idempotent.
            decoded = _on(decoded, ~_ascii(decoded), lambda some: some.str.normalize("NFC"))
        changed = decoded != before
        if not changed.any():
            break
        rows = rows.filter(changed)
        texts = texts.scatter(rows, decoded.filter(changed))
    return texts

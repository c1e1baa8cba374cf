"""A group of features: a switch in the settings, its columns, and the function that computes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from tasks.algorithms.hash_index import HashIndex
from tasks.core.part_files import scan_parts
from tasks.parallel.key_hash import hashed, hashed_array
from tasks.stages.features.columns import Columns

NEVER = 1 << 62  # ms


@dataclass(frozen=True)
class Words:
    """All words: `token`, `ms` (when it was first seen); and how texts are split into them, count_words.splitting."""

    first_seen: pl.DataFrame
    splitting: str

    def seen(self, words: pa.Array) -> NDArray[np.int64]:
        """Return when each of these words (n,) was first seen, in ms; NEVER for one that is not there."""
        return self._ms[self._index.find(hashed_array(words).view(np.int64))]

    @cached_property
    def _index(self) -> HashIndex:
        return HashIndex(hashed(self.first_seen["token"]).view(np.int64))

    @cached_property
    def _ms(self) -> NDArray[np.int64]:
        return np.append(self.first_seen["ms"].to_numpy(), NEVER)  # the last one is for place -1

    @classmethod
    def read(cls, files: Sequence[Path], splitting: str) -> Words:
        """Read files of word counts."""
        words = scan_parts(files).filter(pl.col("n") == 1)
        return cls(words.select("token", ms=pl.col("first_seen").dt.epoch("ms")).collect(), splitting)


@dataclass(frozen=True)
class Part:
    """One file of clean reviews, with their tokens in the same order."""

    reviews: pl.DataFrame  # the columns of `tasks.domain.schemas.REVIEWS`
    tokens: pa.ListArray  # ids of the tokens of title and text
    words: Words


@dataclass(frozen=True)
class Group:
    """A group of features. `tasks.stages.features.groups` finds every group that one of its modules declares.

    name: the setting features.groups.NAME switches the group. says: its description, for docs/reference.md.
    columns: a description of each feature. All become float32, NaN or null where unknown.
    of_part: computes the columns from one file of reviews, in the order of its rows, as a frame or as arrays by name
    (`columns.Columns`), which take a tenth of the time for a single review. If None, `tasks.stages.features.stage` adds
    the columns, from other reviews or from models.
    on: whether the group is on by default; None: it is on, unless the target switches it off (`Target.off`).
    """

    name: str
    says: str
    columns: Mapping[str, str]
    of_part: Callable[[Part], pl.DataFrame | Columns] | None = None
    on: bool | None = True

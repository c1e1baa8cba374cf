"""What a group of features is: a switch in the settings, its columns, and the function that computes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import polars as pl
import pyarrow as pa

Vocabulary: TypeAlias = tuple[Sequence[Path], str]  # files of word counts, and how texts were split for them


@dataclass(frozen=True)
class Part:
    """One file of clean reviews and what goes with it, row by row."""

    reviews: pl.DataFrame  # the columns of `tasks.domain.schemas.REVIEWS`
    tokens: pa.ListArray  # ids of the tokens of title and text
    counts: Vocabulary  # of all reviews, with the moment at which each word was first seen


@dataclass(frozen=True)
class Group:
    """A group of features. `tasks.stages.features.groups` finds every one that a module there declares.

    name: the group is switched by features.groups.NAME. says: what it holds, for docs/reference.md.
    columns: what each feature says. All are float32 in the end, NaN or null where unknown.
    of_part: computes the columns from one file of reviews, in the order of its rows. None: they come from other reviews
    or from models, and `tasks.stages.features.stage` puts them in.
    on: whether the group is on by default; None: unless the target switches it off (`Target.off`).
    """

    name: str
    says: str
    columns: Mapping[str, str]
    of_part: Callable[[Part], pl.DataFrame] | None = None
    on: bool | None = True

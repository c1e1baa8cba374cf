"""Dataset profiles: how a source's columns become the canonical ones, ten lines of YAML in conf/datasets.

docs/data.md describes every key.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tasks.core.errors import ProfileError
from tasks.core.settings import CONF
from tasks.domain.schemas import REVIEWS
from tasks.sources.item_records import ItemColumns

MANDATORY = ("user_id", "item_id", "rating", "text", "timestamp")
Scalar = str | int | float | bool


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TimestampRule(_Model):
    """`unit` of times in numbers; `formats` (strptime) of times in text, tried in turn. `months`: the names of the
    twelve months in the texts' language, which become the English ones. `pattern`: a regular expression whose first
    group cuts the time out of longer texts."""

    unit: Literal["s", "ms", "us", "ns", "excel"] | None = None
    formats: tuple[str, ...] = ()
    pattern: str | None = None
    months: tuple[str, ...] = ()

    @field_validator("months")
    @classmethod
    def _twelve(cls, months: tuple[str, ...]) -> tuple[str, ...]:
        if len(months) not in (0, 12) or not all(months):
            raise ValueError("give the names of all twelve months, January's first")
        return months

    @field_validator("pattern")
    @classmethod
    def _with_a_group(cls, pattern: str | None) -> str | None:
        try:
            groups = re.compile(pattern or "()").groups
            pl.Series([""]).str.extract(pattern or "()", 1)
        except (re.error, pl.exceptions.PolarsError) as error:
            raise ValueError(f"no regular expression: {' '.join(str(error).split())[:100]}") from None
        if not groups:
            raise ValueError("put what holds the time into parentheses")
        return pattern


class RatingRule(_Model):
    """`scale`: the source's lowest and highest rating, which become 1 and 5. `words`: see tasks/sources/ratings.py.
    `values`: the stars, 1 to 5, of each text, number or flag that is a rating, in any case."""

    scale: tuple[float, float] | None = None
    words: bool = False
    values: dict[str, float] = Field(default_factory=dict)

    @field_validator("values", mode="before")
    @classmethod
    def _as_texts(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {re.sub(r"^(-?[0-9]+)\.0$", r"\1", str(key).strip().lower()): v for key, v in values.items()}

    @model_validator(mode="after")
    def _one_way(self) -> RatingRule:
        if self.values and (self.words or self.scale):
            raise ValueError("values gives the stars itself: leave scale and words out")
        if not all(1 <= stars <= 5 for stars in self.values.values()):
            raise ValueError("values gives stars from 1 to 5")
        return self

    @field_validator("scale")
    @classmethod
    def _ascending(cls, scale: tuple[float, float] | None) -> tuple[float, float] | None:
        if scale is not None and not (isfinite(scale[0]) and isfinite(scale[1]) and scale[0] < scale[1]):
            raise ValueError("give the lowest and the highest rating, in this order")
        return scale


class VotesRule(_Model):
    """The column that holds votes as [helpful, total], a list or its text."""

    pair: str


class Quoting(_Model):
    """`quote: null`: quotes are data, and no field holds a line break.

    `escape`, and the quote of TSV, are found from each file where they are not given."""

    quote: str | None = Field(min_length=1, max_length=1)
    delimiter: str = Field(min_length=1, max_length=1)
    escape: Literal["\\"] | None = None  # null: a quote within quotes is doubled


class Csv(Quoting):
    quote: str | None = Field(default='"', min_length=1, max_length=1)
    delimiter: str = Field(default=",", min_length=1, max_length=1)


class Tsv(Quoting):
    quote: str | None = Field(default=None, min_length=1, max_length=1)
    delimiter: str = Field(default="\t", min_length=1, max_length=1)


class Profile(_Model):
    """How a source's columns become canonical ones."""

    description: str
    columns: dict[str, str]  # canonical: source
    constants: dict[str, Scalar] = Field(default_factory=dict)  # for every row
    defaults: dict[str, Scalar] = Field(default_factory=dict)  # where the source has no value
    nulls: tuple[str, ...] = ()  # texts that mean null, besides the empty one
    rating: RatingRule = RatingRule()
    timestamp: TimestampRule = TimestampRule()
    votes: VotesRule | None = None
    flags: dict[str, list[str]] = Field(default_factory=dict)
    identity: tuple[str, ...] = ("user_id", "item_id", "timestamp", "rating", "title", "text")
    missing_user: Literal["reject", "anonymous"] = "reject"
    encoding: str = "utf-8"
    csv: Csv = Csv()
    tsv: Tsv = Tsv()
    header: tuple[str, ...] = ()  # of delimited files that have no header row
    items: ItemColumns | None = None
    needs_rating: bool = True  # a row without one is of no use; not in YAML: what is to be scored needs none

    @property
    def wanted(self) -> list[str]:
        """The source columns that are read."""
        pair = [self.votes.pair] if self.votes else []
        return list(dict.fromkeys([*self.columns.values(), *pair]))

    @property
    def mandatory(self) -> list[str]:
        """The source columns that every usable row needs."""
        optional = {*self.constants, *self.defaults, *(["user_id"] if self.missing_user == "anonymous" else [])}
        optional |= set() if self.needs_rating else {"rating"}
        return [self.columns[c] for c in MANDATORY if c in self.columns and c not in optional]


def known_profiles() -> list[str]:
    return sorted(p.stem for p in (CONF / "datasets").glob("*.yaml"))


def load_profile(name: str) -> Profile:
    """Load a profile by its name in conf/datasets or by path. Raises ProfileError."""
    path = Path(name).expanduser() if name.endswith((".yaml", ".yml")) else CONF / "datasets" / f"{name}.yaml"
    if not path.exists():
        known = known_profiles()
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}; or give a path to a YAML file"
        raise ProfileError(f"no dataset profile {name!r}", fix=hint)
    try:
        profile = Profile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        b"".decode(profile.encoding)
    except LookupError:
        raise ProfileError("unknown encoding", where=str(path), fix="for example utf-8 or windows-1252") from None
    except (ValidationError, yaml.YAMLError, UnicodeDecodeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else " ".join(str(error).split())
        raise ProfileError(f"malformed: {what}", where=str(path), fix="compare conf/datasets/amazon-us.yaml") from None
    if "needs_rating" in profile.model_fields_set:
        raise ProfileError("needs_rating is no key of profiles", where=str(path), fix="raymill score needs no ratings")
    if problem := _problem(profile):
        raise ProfileError(problem, where=str(path), fix=f"canonical columns are {', '.join(REVIEWS.names)}")
    return profile


def _problem(profile: Profile) -> str | None:
    given = {*profile.columns, *profile.constants}
    if unknown := sorted({*given, *profile.defaults, *profile.identity} - set(REVIEWS.names)):
        return f"unknown canonical columns: {unknown}"
    anonymous = {"user_id"} if profile.missing_user == "anonymous" else set()
    if missing := sorted(set(MANDATORY) - given - set(profile.defaults) - anonymous):
        return f"mandatory columns not mapped: {missing}"
    if both := sorted(set(profile.columns) & set(profile.constants)):
        return f"both mapped and constant: {both}"
    if profile.votes and {"helpful_votes", "total_votes"} & given:
        return "votes.pair gives helpful_votes and total_votes; map them one way only"
    return None

"""Guess a rating's scale and spelling from some of a column's values, and warn of what a profile would twist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from tasks.sources.profiles import Profile, RatingRule
from tasks.sources.ratings import in_words, stated

MOST = 0.995  # share of the ratings that a scale must cover: one that covers 95% hides its upper end
PLAIN = 0.98  # share within 1..5 from which a proposal keeps that scale: the others are dirt, and inspect warns
PARSED = 0.9  # share of the values that must be ratings
HIGHEST = (5, 6, 7, 10, 20, 100)
UNRATED = 0.3  # share of zeros from which they are no rating, if ones are rarer by far
FEW = 50  # ratings below which no end of a scale is missed
LEAK_SHARE, LEAK_AGREE = 0.05, 0.9  # a text states the stars in this share of rows, and is right in this share


@dataclass(frozen=True)
class RatingGuess:
    """The rule, and the lowest and highest value among those looked at."""

    rule: RatingRule
    lowest: float
    highest: float

    @property
    def plain(self) -> bool:
        return self.rule == RatingRule()


def guess_rating(numbers: pl.Series, texts: pl.Series) -> RatingGuess | None:
    """Guess how the values, as numbers (null where none) and as texts, become ratings; None if most are no ratings."""
    words = not len(texts) or numbers.count() < PARSED * len(numbers)
    if words:
        numbers = texts.to_frame("t").select(in_words(pl.col("t"), best=None)).to_series()
    values = numbers.drop_nulls().drop_nans()
    if not len(values) or len(values) < PARSED * len(numbers):
        return None
    best = _highest_named(texts) if words else None
    plain = best in (None, 5) and _share(values, 1, 5) >= PLAIN
    scale = (1.0, 5.0) if plain else scale_of(values, best)
    if scale is None:
        return None
    rule = RatingRule(scale=None if scale == (1, 5) else scale, words=words)
    return RatingGuess(rule, float(values.min()), float(values.max()))  # type: ignore[arg-type]


def scale_of(values: pl.Series, best: float | None = None) -> tuple[float, float] | None:
    """Return the smallest usual scale that covers the values. best: its upper end, where the texts name it."""
    # -1, and a zero among whole stars, mean "not rated" as often as the lowest rating: rejected, which shows.
    whole = _multiples(values, 1)
    if whole and values.n_unique() <= 2 and values.min() <= 0:  # type: ignore[operator]
        return None  # yes and no
    values = values.filter(values != -1) if whole else values
    rated = values.filter(values != 0) if whole else values
    if best in (None, 5) and _share(rated, 1, 5) >= MOST:
        return 1, 5
    zeros, ones = (int((values == n).sum()) for n in (0, 1))
    if whole and zeros >= UNRATED * len(values) and zeros > 4 * ones and rated.n_unique() > 2:
        values = rated
    for high in (1, 10, 100) if best is None else (best,):
        if values.max() == high and values.n_unique() > 2 and _multiples(values, high / 5) and values.min() > 0:  # type: ignore[operator]
            return high / 5, high  # five stars, as shares, percentages or doubled
    if best is None and _share(values, 0, 1) >= MOST and values.n_unique() > 2:
        return 0, 1
    for high in HIGHEST if best is None else (best,):
        for low in (1, 0.5, 0) if high <= 10 else (0,):
            if (low != 0.5 or _multiples(values, 0.5)) and _share(values, low, high) >= MOST:
                return low, high
    return None


def _highest_named(texts: pl.Series) -> float | None:
    """Return what most texts count their stars out of, as 10 in "8/10"."""
    named = texts.str.extract(r"(?:/|\b(?:out of|of|von|sur|de|su|van|av)\b)\s*([0-9]+)\D*$", 1).drop_nulls()
    return float(named.mode().sort()[0]) if len(named) else None


def _share(values: pl.Series, low: float, high: float) -> float:
    return float(values.is_between(low, high).mean() or 0)  # type: ignore[arg-type]


def _multiples(values: pl.Series, step: float) -> bool:
    return bool(((values / step - (values / step).round()).abs() < 1e-6).all())


@dataclass
class RatingWatch:
    """Collects ratings and texts while a profile is tried, to warn of what it would twist."""

    profile: Profile
    raw: list[pl.Series] = field(default_factory=list)
    kept: list[pl.DataFrame] = field(default_factory=list)

    def see(self, frame: pl.DataFrame, kept: pl.DataFrame, own: Profile) -> None:
        """Collect rows that the file's own profile read and kept."""
        if (column := own.columns.get("rating")) in frame.columns:
            self.raw.append(frame[column].cast(pl.String, strict=False).cast(pl.Float64, strict=False))
        self.kept.append(kept.select("rating", "title", "text"))

    def warnings(self) -> list[str]:
        kept = pl.concat(self.kept) if self.kept else pl.DataFrame()
        return [*self._of_scale(), *_leaks(kept)] if len(kept) or self.raw else []

    def _of_scale(self) -> list[str]:
        values = pl.concat(self.raw).drop_nulls().drop_nans() if self.raw else pl.Series(dtype=pl.Float64)
        if not len(values) or self.profile.rating != RatingRule():
            return []
        low, high = (float(value) for value in (values.min(), values.max()))  # type: ignore[arg-type]
        scale = scale_of(values)
        if scale is not None and scale != (1, 5):
            ends = f"[{scale[0]:g}, {scale[1]:g}]"
            return [
                f"ratings run from {low:g} to {high:g}, and those outside 1..5 are rejected: "
                f"if the scale is {ends}, add `rating: {{scale: {ends}}}` to the profile"
            ]
        if len(values) >= FEW and 1 < high <= 4 and _multiples(values, 1):
            return [
                f"no rating is above {high:g}: if the scale ends there, "
                f"add `rating: {{scale: [1, {high:g}]}}` to the profile"
            ]
        return []


def _leaks(kept: pl.DataFrame) -> list[str]:
    """Warn of titles and texts that state the stars, from which a model would read the label."""
    warnings = []
    for column in ("title", "text") if len(kept) else ():
        numbers = stated(kept[column])
        share = numbers.count() / len(kept)
        agree = ((numbers - kept["rating"]).abs() <= 0.25).sum() / max(numbers.count(), 1)
        if share >= LEAK_SHARE and agree >= LEAK_AGREE:
            example = kept[column].filter(numbers.is_not_null())[0][:60]
            warnings.append(
                f"{share:.0%} of the {column}s state the stars ({example!r}), {agree:.0%} of them rightly: "
                "a model reads the label there; `--set clean.remove_stated_stars=true` removes such phrases"
            )
    return warnings


def rule_line(guess: RatingGuess, examples: Sequence[str]) -> str:
    """Write the profile's line for a guess, with its evidence."""
    scale = guess.rule.scale
    parts = ["scale: [{:g}, {:g}]".format(*scale)] if scale else []
    parts += ["words: true"] if guess.rule.words else []
    seen = f"such as {examples[0]}; " if guess.rule.words and examples else ""
    unrated = f"; those below {scale[0]:g} seem to mean 'not rated'" if scale and guess.lowest < scale[0] else ""
    check = ": check where the scale ends" if scale else ""
    doubt = f"values from {guess.lowest:g} to {guess.highest:g}{check}{unrated}"
    return f"rating: {{{', '.join(parts)}}}   # {seen}{doubt}"

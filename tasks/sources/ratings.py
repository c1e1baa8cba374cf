"""Parse ratings on other scales than 1 to 5 and ratings in words, and find them stated in titles and texts.

`rating: {scale: [low, high]}` in a profile maps low..high linearly to 1..5. `rating: {words: true}` reads, as a whole
value: "4.0 out of 5 stars", "4/5", "4,0 von 5 Sternen", "5つ星のうち4.0"; "4 stars", "4,5"; "★★★★☆"; "four stars". What
follows "out of" must be the scale's highest rating, 5 if none is given. `rating: {values: {positive: 5, negative: 1}}`
gives each value its stars.
"""

from __future__ import annotations

import polars as pl

from tasks.domain.stated_stars import COUNTS, NUMBER, OF, STARS, STATED
from tasks.sources.profiles import RatingRule

_RATED = r"(?:rated|rating:?|note:?|bewertung:?)?\s*"
_OUT_OF = rf"^(?i:{_RATED}({NUMBER})\s*(?:/|\b{OF}\b)\s*([0-9]+)\s*{STARS}?\.?)$"
_BEST_FIRST = rf"^([0-9]+)つ星のうち\s*({NUMBER})$"
_ALONE = rf"^(?i:{_RATED}({NUMBER})\s*(?:{STARS}|★|⭐)?)$"
_SIGNS = r"^([★⭐🌟]*)([½⯪⯨]?)([☆✩⚝]*)$"
_NAMED = rf"^(?i:({'|'.join(COUNTS)})[\s-]+stars?)$"


def rating_of(kind: pl.DataType, value: pl.Expr, rule: RatingRule) -> pl.Expr:
    """Return the rating on the scale 1 to 5 as Float32; null where it cannot be parsed."""
    if rule.values:
        name = value.cast(pl.String, strict=False).str.strip_chars().str.to_lowercase()
        name = name.str.replace(r"^(-?[0-9]+)\.0$", "$1")
        return name.replace_strict(rule.values, default=None, return_dtype=pl.Float32)
    if rule.words:
        number = in_words(value.cast(pl.String, strict=False), rule.scale[1] if rule.scale else 5)
    else:
        number = value.str.strip_chars() if kind == pl.String else value
    if rule.scale is None:
        return number.cast(pl.Float32, strict=False)
    low, high = rule.scale
    return (1 + 4 * (number.cast(pl.Float64, strict=False) - low) / (high - low)).cast(pl.Float32)


def in_words(text: pl.Expr, best: float | None) -> pl.Expr:
    """Parse whole texts as ratings, in Float64. best: the highest rating; None: whatever the text says."""
    text = text.str.strip_chars().str.replace_all("\ufe0f", "", literal=True)

    def fits(highest: pl.Expr) -> pl.Expr:
        return pl.lit(True) if best is None else highest == best

    out_of, best_first, signs = (text.str.extract_groups(p) for p in (_OUT_OF, _BEST_FIRST, _SIGNS))
    full = signs.struct.field("1").str.len_chars().cast(pl.Float64)
    half = signs.struct.field("2").str.len_chars().cast(pl.Float64)
    empty = signs.struct.field("3").str.len_chars().cast(pl.Float64)
    named = text.str.extract(_NAMED, 1).str.to_lowercase()
    return pl.coalesce(
        pl.when(fits(_number(out_of.struct.field("2")))).then(_number(out_of.struct.field("1"))),
        pl.when(fits(_number(best_first.struct.field("1")))).then(_number(best_first.struct.field("2"))),
        _number(text.str.extract(_ALONE, 1)),
        pl.when((full + half + empty > 0) & ((empty == 0) | fits(full + half + empty))).then(full + half / 2),
        named.replace_strict(COUNTS, default=None, return_dtype=pl.Float64),
    )


def stated(texts: pl.Series) -> pl.Series:
    """Return the first number of stars, of 5, that each title or text states; null where it states none."""
    groups = texts.str.extract_groups(STATED)
    frame = groups.struct.unnest()
    named = frame["5"].str.to_lowercase().replace_strict(COUNTS, default=None, return_dtype=pl.Float64)
    numbers = [frame.select(_number(pl.col(str(i)))).to_series() for i in range(1, 5)]
    signs = frame["6"].str.len_chars().cast(pl.Float64)
    return pl.select(pl.coalesce(*numbers, named, signs)).to_series()


def _number(text: pl.Expr) -> pl.Expr:
    return text.str.replace(",", ".", literal=True).cast(pl.Float64, strict=False)

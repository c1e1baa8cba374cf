"""The features in their groups: what each column says, and which groups a run has.

Votes are cast after the review, and the data has their count on the day when it was collected. So a review's own votes
are never a feature, and those of earlier reviews are known too well: some were cast after the later review. They are a
group of their own, `helpful`, which is on by default for the target `helpful` alone, whose labels are counted on the
same day. Days themselves are left out, since trees cannot go on with what only grows: a month and a weekday come again.
"""

from __future__ import annotations

from collections.abc import Sequence

from tasks.core.errors import SettingsError
from tasks.domain.targets import target_of
from tasks.stages.features import past_aggregates, text_score
from tasks.stages.features.settings import FeaturesConfig
from tasks.stages.features.text_shape import TEXT_SHAPE

Groups = dict[str, list[str]]  # the names of the features of each group

PAST = ("count", "mean", "std", "ones", "fives", "last", "days_since_first", "days_since_last")
VOTES = ("helpful", "votes")
# Numbers the model learns from, by group: all float32, NaN or null where unknown.
FEATURES: dict[str, dict[str, str]] = {
    **{kind: {f"{kind}_{n}": f"{past_aggregates.KNOWN[n]}, of this {kind}" for n in PAST} for kind in ("user", "item")},
    "helpful": {
        f"{k}_{n}": f"{past_aggregates.KNOWN[n]}: earlier ones of this {k}" for k in ("user", "item") for n in VOTES
    },
    "catalogue": {
        "category_count": "logarithm of 1 + earlier reviews in the category",
        "category_mean": "mean of their stars; null for a category never seen before",
        "brand_count": "logarithm of 1 + earlier reviews of the brand",
        "brand_mean": "mean of their stars; null for a brand never seen before",
        "price": "price of the item",
        "sales_rank": "place of the item by sales",
        "also_viewed_price": "mean price of the items viewed along with it",
        "also_viewed_count": "how many of them are priced",
    },
    "shape": {
        **TEXT_SHAPE,
        "title_chars": "characters of the title",
        "title_exclamations": "exclamation marks per 100 characters of the title",
        "title_capitals": "share of capitals among the title's letters",
        "n_tokens": "tokens of title and text",
        "new_words": "share of words that no earlier review holds",
        "unique_words": "share of words that come for the first time in their review",
    },
    "context": {
        "verified": "1 verified, 0 not, null unknown",
        "month": "month of the year, 1 to 12",
        "weekday": "day of the week, 1 (Monday) to 7",
    },
    "stars": {"rating": "the review's own stars, for the target helpful"},
    "text": {
        "text_score": "label expected from the words by models of earlier reviews; null in the first block",
        **text_score.ANSWERS,
    },
    "language": {
        "lm_surprise": "bits per token by the n-grams of earlier periods; null in the first",
        "lm_high": "by how many bits a token it is worded as earlier reviews of 4 and 5 stars; null in the first",
    },
}
KEPT = ("review_id", "user_id", "item_id", "category", "rating", "timestamp")
SLICED_BY = ("n_chars", "user_count", "item_count")  # evaluation's slices need them, features or not


def wanted_groups(
    config: FeaturesConfig, *, with_items: bool, with_language: bool, embedded: Sequence[str] = ()
) -> Groups:
    """The groups switched on and the names of their features; what there is no input for is left out.

    embedded: the columns of the stage `embeddings`, which are as many as conf says.

    Raises SettingsError where nothing is left to learn from.
    """
    switched = config.groups.model_dump()
    target = target_of(config.target)
    for group, wanted in switched.items():
        if wanted is None:
            switched[group] = group not in target.off
        switched[group] &= group not in target.leaks
    switched["language"] &= with_language
    groups = {group: list(names) for group, names in FEATURES.items() if switched[group]}
    if embedded and switched["embeddings"]:
        groups["embeddings"] = list(embedded)
    if not with_items and "catalogue" in groups:
        groups["catalogue"] = ["category_count", "category_mean"]
    if not groups:
        raise SettingsError(
            "every group of features is switched off",
            where="features.groups",
            fix=f"switch one on: {', '.join(FEATURES)}",
        )
    return groups

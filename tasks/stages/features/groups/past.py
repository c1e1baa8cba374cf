"""Groups `user`, `item` and `helpful`: earlier reviews of the same user or item (`past_aggregates`).

Votes are cast after the review, and the data has their count on the day of its collection. So a review's own votes are
never a feature, and even votes on earlier reviews leak: some were cast after the later review. They form a group of
their own, `helpful`, which is on by default only for the target `helpful`, whose labels are counted on the same day.
"""

from __future__ import annotations

from tasks.stages.features.group import Group
from tasks.stages.features.past_aggregates import KNOWN, PAST, VOTES

USER = Group(
    name="user",
    says="the user's earlier reviews",
    columns={f"user_{name}": f"{KNOWN[name]}, of this user" for name in PAST},
)
ITEM = Group(
    name="item",
    says="the item's earlier reviews",
    columns={f"item_{name}": f"{KNOWN[name]}, of this item" for name in PAST},
)
HELPFUL = Group(
    name="helpful",
    says="votes on earlier reviews, counted later; null: only for the target helpful",
    columns={
        f"{kind}_{name}": f"{KNOWN[name]}: earlier ones of this {kind}" for kind in ("user", "item") for name in VOTES
    },
    on=None,
)

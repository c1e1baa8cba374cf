"""Group `catalogue`: the item's product metadata, and earlier reviews of its category and brand."""

from __future__ import annotations

from tasks.stages.features.group import Group

CATALOGUE = Group(
    name="catalogue",
    says="category; brand, price and sales rank if there is product metadata",
    columns={
        "category_count": "logarithm of 1 + earlier reviews in the category",
        "category_mean": "mean of their stars; null for a category never seen before",
        "brand_count": "logarithm of 1 + earlier reviews of the brand",
        "brand_mean": "mean of their stars; null for a brand never seen before",
        "price": "price of the item",
        "sales_rank": "rank of the item by sales",
        "also_viewed_price": "mean price of the also-viewed items",
        "also_viewed_count": "how many of them have a price",
    },
)

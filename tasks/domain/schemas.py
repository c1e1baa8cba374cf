"""The canonical tables, as Arrow schemas."""

from __future__ import annotations

import pyarrow as pa

REVIEWS = pa.schema(
    [
        pa.field("review_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("rating", pa.float32(), nullable=False),  # 1..5
        pa.field("title", pa.string(), nullable=False),  # "" where there is none
        pa.field("text", pa.string(), nullable=False),
        pa.field("timestamp", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("helpful_votes", pa.int32()),
        pa.field("total_votes", pa.int32()),
        pa.field("verified", pa.bool_()),
        pa.field("category", pa.string()),
    ]
)

# Reviews that are to be scored: the stars are null where nobody has given any.
UNRATED = REVIEWS.set(REVIEWS.get_field_index("rating"), pa.field("rating", pa.float32()))

FEW_VALUES = ("category",)  # the only column of REVIEWS and ITEMS worth a dictionary in parquet

# A row that cannot be used: why, where it came from, and the row itself as JSON text.
REJECTS = pa.schema(
    [
        pa.field("reason", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),  # file, relative to the input
        pa.field("row", pa.int64(), nullable=False),  # 0-based data row in that file, the header not counted
        pa.field("record", pa.string(), nullable=False),
    ]
)

# A file that was not read, or not to its end: why, and how many of its rows became reviews or rejects. The reason of
# one that is no damaged review file begins with LEFT_OUT.
LEFT_OUT = "left out: "
QUARANTINE = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),  # file, relative to the input
        pa.field("reason", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
    ]
)

ITEMS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("brand", pa.string()),
        pa.field("price", pa.float64()),  # null where unknown; 0 is a price
        pa.field("category", pa.string()),  # the first of the first path
        pa.field("sales_category", pa.string()),
        pa.field("sales_rank", pa.int64()),
        pa.field("also_viewed", pa.list_(pa.string())),
    ]
)

# `count` by the review's stars, halves rounded up: rating_1 + ... + rating_5 = count.
COUNTS_BY_RATING = tuple(f"rating_{stars}" for stars in range(1, 6))
WORD_COUNTS = pa.schema(
    [
        pa.field("token", pa.string(), nullable=False),
        pa.field("n", pa.int8(), nullable=False),  # words in it: 2 and 3 are n-grams
        pa.field("count", pa.int64(), nullable=False),
        pa.field("documents", pa.int64(), nullable=False),  # reviews that hold it
        *(pa.field(name, pa.int64(), nullable=False) for name in COUNTS_BY_RATING),
        pa.field("first_seen", pa.timestamp("ms", tz="UTC"), nullable=False),  # time of the first review that holds it
    ]
)

TOKENS = pa.schema(
    [
        pa.field("review_id", pa.string(), nullable=False),
        pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),
    ]
)

VOCABULARY = pa.schema([pa.field("token", pa.string(), nullable=False)])

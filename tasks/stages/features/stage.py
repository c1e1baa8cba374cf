"""Reviews, word counts, tokens, language-model scores and, where there is one, the catalogue in; numbers out, a row for
each review.

No feature looks ahead. What is known of a user, an item, a category or a brand is taken from reviews strictly before
the review's own timestamp: reviews of the same moment (often the same day) do not see each other. The text score comes
from models of earlier time blocks (`tasks.stages.features.text_score`), and so do the scores of `language-model`; a
word is new or not by when it was first seen.

Out: one file per file of reviews, in the same row order: KEPT, `text_digest` (uint64, `text_shape.text_digest`),
`label` (float32, null where a review has none for this target), SLICED_BY and the features of the groups that are
switched on (`tasks.stages.features.groups` declares them, with what each column says); and `text_score.npz` with the
score's models of the last block, for the stage `package`. Facts: `features`, their `groups`, `target`, and `linear`,
the feature that is the linear baseline's prediction in the target's unit, or null.

    raymill run --until features
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.core.part_files import read_part
from tasks.core.snapshot_files import FileEntry, FileSink, part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.domain.targets import TARGETS, labels
from tasks.engines import cluster
from tasks.parallel.token_matrix import FilePair, read_ids
from tasks.stages.features import catalogue, past_aggregates, text_score_fit
from tasks.stages.features.columns import as_columns, as_series
from tasks.stages.features.features import deep_features, own_features, past_features, text_features
from tasks.stages.features.group import Part, Words
from tasks.stages.features.past_aggregates import PAST, VOTES
from tasks.stages.features.settings import FeaturesConfig, Groups, wanted_groups
from tasks.stages.features.text_shape import text_digest
from tasks.stages.text_model.rows import SCORES

KEPT = ("review_id", "user_id", "item_id", "category", "rating", "timestamp")
TEXT_SCORE = "text_score.npz"
SLICED_BY = ("n_chars", "user_count", "item_count")  # evaluation's slices need them, features or not


@stage(version=3, config=FeaturesConfig, libraries=("pyarrow", "polars", "scipy", "numpy"))
def features(
    reviews: Snapshot,
    counts: Snapshot,
    tokens: Snapshot,
    language: Snapshot,
    vectors: Snapshot | None,
    items: Snapshot | None,
    deep: Snapshot | None,
    config: FeaturesConfig,
    out: SnapshotWriter,
) -> None:
    import ray

    groups = wanted_groups(
        config,
        with_items=items is not None,
        with_language=language.rows() > 0,
        embedded=vectors.facts["columns"] if vectors else [],
        with_deep=deep is not None,
    )
    files = list(zip(reviews.files(), tokens.files(), strict=True))
    known = known_columns(reviews.files(), items.files() if items else [], groups, config.buckets)
    nothing: list[Any] = [None] * len(files)
    learned, scores = None, nothing
    if "text" in groups:
        vocabulary = tokens.read("vocabulary")["token"].to_pylist()
        learned, scores = text_score_fit.fit(files, vocabulary, config.text_score, config.target, config.min_votes)
    shared = ray.put(((counts.files(), counts.facts["splitting"]), config, groups))
    models = language.files() if "language" in groups else nothing
    embedded = vectors.files() if vectors and "embeddings" in groups else nothing
    deeper = deep.files() if deep and "deep" in groups else nothing
    write = ray.remote(write_part)
    refs = [
        write.remote(out.sink, i, pair, by_row, shared, scores[i], *(columns[i] for columns in known))
        for i, (pair, *by_row) in enumerate(zip(files, models, embedded, deeper, strict=True))
    ]
    out.add(cluster.gather(refs))
    if learned is not None:
        buffer = io.BytesIO()
        fields = {"whole": learned.whole, "title": learned.title}
        arrays = {f"{f}_{n}": getattr(m, n)[-1] for f, m in fields.items() for n in ("idf", "weights")}
        newline = -1 if learned.reader.newline is None else learned.reader.newline
        np.savez_compressed(buffer, folds=learned.reader.folds, border=learned.borders[-1], newline=newline, **arrays)
        out.write_bytes(TEXT_SCORE, buffer.getvalue())
    out.count(rows_in=reviews.rows())
    out.fact(
        features=[name for names in groups.values() for name in names],
        groups=groups,
        target=config.target,
        linear="text_score" if learned is not None else None,
    )


def known_columns(files: Sequence[Path], items: Sequence[Path], groups: Groups, buckets: int) -> list[list[Any]]:
    """Lists of references, one per file: to tables of finished columns in row order."""
    import ray

    finish = ray.remote(past_columns)

    def past(blocks: Sequence[Any], kind: str, key: str, names: Sequence[str]) -> list[Any]:
        answers = past_aggregates.known_before(blocks, key, buckets)
        return [finish.remote(b, kind, key, names, *found) for b, found in zip(blocks, answers, strict=True)]

    votes = VOTES if "helpful" in groups else ()
    known = [past(files, kind, f"{kind}_id", (*PAST, *votes)) for kind in ("user", "item")]
    if "catalogue" not in groups:
        return known
    blocks: list[Any] = list(catalogue.with_items(files, items, buckets) if items else files)
    known += [past(blocks, kind, kind, ("count", "mean")) for kind in (catalogue.KEYS if items else ("category",))]
    return [*known, blocks] if items else known


def past_columns(
    block: past_aggregates.Block, kind: str, key: str, names: Sequence[str], *answers: pa.Table
) -> pa.Table:
    """What was known of a block's users, items, categories or brands, row by row, as features."""
    found = as_columns(past_aggregates.in_row_order(block, key, answers, names))
    return pl.DataFrame(as_series(past_features(found, kind, names))).to_arrow()


def write_part(
    sink: FileSink,
    index: int,
    files: FilePair,
    by_row: Sequence[Path | None],
    shared: tuple[tuple[Sequence[Path], str], FeaturesConfig, Groups],
    scores: Sequence[Any] | None,
    *known: pa.Table,
) -> FileEntry:
    """Compute and write all features of one file of reviews.

    shared: files of word counts and how words were split, settings, groups. known: finished columns. by_row: its files
    of language-model scores, of embeddings and of the text model's scores, where there are any. scores: references to
    each rank's text scores.
    """
    counts, config, groups = shared
    reviews = read_part(files[0])
    label = labels(reviews.to_arrow(), TARGETS[config.target], config.min_votes)
    columns: dict[str, pl.Series] = {"text_digest": text_digest(reviews["text"]), "label": pl.Series(label)}
    for table in known:
        columns |= pl.DataFrame(pl.from_arrow(table)).drop(KEPT, strict=False).to_dict()
    columns |= as_series(own_features(Part(reviews, read_ids(files[1]), Words.read(*counts)), groups))
    if scores is not None:
        columns |= as_series(text_features(text_score_fit.interleaved(cluster.gather(scores)), config.target))
    *as_they_are, deep = by_row
    for file, group in zip(as_they_are, ("language", "embeddings"), strict=True):
        if file is not None:
            columns |= read_part(file, groups[group]).to_dict()
    if deep is not None:
        answers = read_part(deep, list(SCORES)).fill_null(float("nan")).to_numpy()
        columns |= as_series(deep_features(answers, config.target))
    names = dict.fromkeys(["label", *SLICED_BY, *(n for names in groups.values() for n in names if n not in KEPT)])
    table = reviews.select(KEPT).with_columns(**columns)
    return sink.write_table(
        part_name(index), table.select(*KEPT, "text_digest", pl.col(list(names)).cast(pl.Float32)).to_arrow()
    )

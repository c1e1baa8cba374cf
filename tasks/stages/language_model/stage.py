"""Clean reviews and their tokens in, how unusual and how approving each review's wording is out.

Time is cut into `periods` with as many reviews each. A review is scored by the n-grams of all earlier periods, and by
nothing else: no score knows its own review or a later one (prequential evaluation; Dawid, 1984). Counting is the second
use of `tasks.parallel.mapreduce` (`counting`); `ngrams` has the formulas, `scoring` applies them. Of more than
`max_reviews` reviews a sample is counted, evenly spread over each file; all are scored.

Out: one file per file of reviews, in the same row order: `review_id` and

- `lm_surprise`: bits per token, the mean of -log2 of the stupid-backoff scores under the counts of earlier reviews;
- `lm_high`: the mean over tokens of log2 of how much likelier each is, in its place, in earlier reviews of four stars
  and more than in the others.

Null without tokens, and where there is nothing earlier to compare with: in period 0, or without approving reviews, or
without others. Beside it the table `ngrams`: how often each gram occurred in each period, sorted by gram, which alone
decides its file; bigrams and trigrams with fewer than `min_count` occurrences are left out.

    raymill run --until language-model
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.algorithms.sampling import stride
from tasks.core.errors import SettingsError
from tasks.core.snapshot_files import part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.engines import cluster
from tasks.parallel import mapreduce
from tasks.parallel.time_borders import borders
from tasks.stages.language_model.counting import GRAMS, counting
from tasks.stages.language_model.ngrams import ALL, HIGH, ID_LIMIT, NGRAMS
from tasks.stages.language_model.scoring import SCORES, Model, score_files
from tasks.stages.language_model.settings import LanguageModelConfig


@stage(version=1, config=LanguageModelConfig, libraries=("pyarrow", "polars", "numpy"))
def language_model(reviews: Snapshot, tokens: Snapshot, config: LanguageModelConfig, out: SnapshotWriter) -> None:
    out.side_table("ngrams")
    if not config.enabled:
        out.write_table(part_name(0), SCORES.empty_table(), SCORES)
        out.write_table(part_name(0, "ngrams"), NGRAMS.empty_table(), NGRAMS)
        return
    check_vocabulary(tokens.facts["vocabulary"])
    files = list(zip(reviews.files(), tokens.files(), strict=True))
    sizes = [entry.rows or 0 for entry in reviews.entries()]
    fractions = [k / config.periods for k in range(1, config.periods)]
    some = [file for file, rows in zip(reviews.files(), sizes, strict=True) if rows]  # an empty file has no times
    cuts = borders(some, fractions) if some else [0] * len(fractions)
    every = stride(sum(sizes), config.max_reviews)
    progress = _Progress(out, 2 * sum(sizes))  # reviews are counted, then scored

    actors = cluster.cpus()
    counted = mapreduce.run(
        counting(out.sink, config, cuts, every),
        files,
        partitions=config.partitions,
        mappers=actors,
        reducers=actors,
        spill_bytes=config.spill_mb << 20,
        on_mapped=lambda index: progress.add(sizes[index]),
    )
    out.add(part.entry for part in counted)
    by_period = sum(part.tokens for part in counted)
    kept = sum(part.kept for part in counted)
    out.count(rows_in=reviews.rows(), tokens=by_period[:, ALL].sum(), **dict(zip(GRAMS, kept, strict=True)))
    out.fact(
        scored_by={"order": config.order, "backoff": config.backoff, "min_count": config.min_count},
        borders=cuts,
        counted_one_in=every,
        period_tokens=by_period[:, ALL].tolist(),
        period_tokens_high=by_period[:, HIGH].tolist(),
    )
    model = Model.of(counted, cuts, config)
    out.add(score_files(files, [out.root / part.entry.name for part in counted], model, out.sink, progress.add))


def check_vocabulary(size: int) -> None:
    if size >= ID_LIMIT:
        raise SettingsError(
            f"the tokenizer has {size:,} tokens; n-grams are counted of vocabularies below {ID_LIMIT:,}",
            where="language_model",
            fix="give another tokenizer, or --set language_model.enabled=false",
        )


@dataclass
class _Progress:
    out: SnapshotWriter
    total: int
    done: int = 0

    def add(self, rows: int) -> None:
        self.done += rows
        self.out.progress(self.done, self.total, unit="rows read")

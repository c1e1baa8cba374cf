"""Score reviews with a registered model, spread over Ray workers (`tasks.parallel.partition`).

In: reviews as `read-new` writes them, and a version of a registered model. Out: a file for each chunk of the reviews,
in the order of their rows (`scorer.schema`), and `rejects/` with the rows that could not be scored, each with the
reason; there `source` and `row` are a file of `read-new` and the row in it. rows in = rows out + rejects. A prediction
depends on its review and the model alone, so the strategy, the number of workers and the size of the chunks change no
value; a file of reviews that was scored before by the same model is taken over.

    raymill score --input PATH --out FOLDER
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.digests import digest_of
from tasks.core.snapshot_files import FileEntry, FileSink, part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.domain.schemas import REJECTS
from tasks.engines import cluster
from tasks.parallel import partition
from tasks.parallel.chunks import Chunk, chunks_of
from tasks.stages.package.layout import ABOUT, About
from tasks.stages.score.registered import RegisteredModel
from tasks.stages.score.scorer import PROBLEM, RECORD, Scorer
from tasks.stages.score.settings import ScoreConfig


@dataclass(frozen=True)
class Sink:
    """Writes a scored chunk. parts: the number of each file of reviews, by its path; places: of each chunk, by its
    index, its number within its file and its first row there."""

    sink: FileSink
    parts: dict[str, int]
    places: tuple[tuple[int, int], ...]

    def __call__(self, chunk: Chunk, scored: pa.Table) -> list[FileEntry]:
        part, (number, first) = self.parts[chunk.file], self.places[chunk.index]
        rows = scored.append_column("row", pa.array(range(first, first + scored.num_rows), pa.int64()))
        bad, good = rows.filter(pc.is_valid(rows[PROBLEM])), rows.filter(pc.is_null(rows[PROBLEM]))
        entries = [self.sink.write_table(part_name(part, block=number), good.drop_columns([PROBLEM, RECORD, "row"]))]
        if bad.num_rows:
            rejects = {
                "reason": bad[PROBLEM],
                "source": pa.repeat(Path(chunk.file).name, bad.num_rows),
                "row": bad["row"],
                "record": bad[RECORD],
            }
            entries.append(self.sink.write_table(part_name(part, "rejects", number), pa.table(rejects), REJECTS))
        return entries


@stage(version=1, config=ScoreConfig, libraries=("xgboost", "polars", "numpy", "tokenizers"), flow="score")
def score(raw: Snapshot, model: RegisteredModel, config: ScoreConfig, out: SnapshotWriter) -> None:
    how = digest_of([score.code, config.reasons, model.digest])
    entries = raw.entries()
    identities = [digest_of([how, entry.sha256]) for entry in entries]
    done = [out.reuse_part(name, i) is not None for i, name in enumerate(identities)]
    files = [raw.root / entry.name for entry, known in zip(entries, done, strict=True) if not known]
    out.note(parts=len(entries), parts_taken_over=sum(done))
    if files:
        written = scored_files(raw.files(), files, model, config, out)
        for i, entry in enumerate(entries):
            if not done[i]:
                out.part(identities[i], written[str(raw.root / entry.name)])
    about = About.parse((model.folder / ABOUT).read_text(), model.key)
    out.count(rows_in=raw.rows())
    out.fact(model=model.name, version=model.version, target=about.target, reasons=config.reasons)


def scored_files(
    all_files: Sequence[Path], files: Sequence[Path], model: RegisteredModel, config: ScoreConfig, out: SnapshotWriter
) -> dict[str, list[FileEntry]]:
    """Score these files; returns what was written for each."""
    chunks = chunks_of(files, config.chunk_rows)
    places, before = [], dict.fromkeys(map(str, files), (0, 0))
    for chunk in chunks:
        number, first = before[chunk.file]
        places.append((number, first))
        before[chunk.file] = (number + 1, first + chunk.rows)
    total, seen = sum(chunk.rows for chunk in chunks), 0

    def settled(chunk: Chunk) -> None:
        nonlocal seen
        seen += chunk.rows
        out.progress(seen, total)

    parts = {str(file): i for i, file in enumerate(all_files)}
    result = partition.run(
        chunks,
        Scorer,
        (model.folder, model.version, config.reasons),
        strategy=config.strategy,
        workers=config.workers or cluster.cpus(),
        sink=Sink(out.sink, parts, tuple(places)),
        on_settled=settled,
    )
    written: dict[str, list[FileEntry]] = defaultdict(list)
    for chunk, receipt in zip(chunks, result.receipts, strict=True):
        written[chunk.file] += receipt
    return written

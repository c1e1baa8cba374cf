"""Clean reviews and their tokens in, what a transformer says of each review's answers out.

The model reads title and text, the first and the last tokens of a long one, and gives the answers of `rows.OUTPUTS`:
probabilities of more than 1, 2, 3 and 4 stars, the stars, and the share of helpful votes. It is trained by Ray Train
(`tasks.engines.ray_torch`), data-parallel, in the loop of tasks/deep/loop.py, on rows that Ray Data shards. As for the
text score, time is cut into blocks: at each border training goes on with all earlier reviews, from the weights of the
border before, and what it comes to scores the reviews up to the next border. So no score knows its own review or a
later one (prequential evaluation; Dawid, 1984). Block 0 has no score.

Out: one file per file of reviews, in the same row order: `review_id` and SCORES, float32, null without a model. The
table `curves`: the losses of each training. The last model: `text_model.safetensors` and `text_model.json`. A killed
worker or run goes on from the last checkpoint, to the same bytes. The flow skips the stage unless conf switches it on.

    raymill run --until text-model --set text_model.enabled=true
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.errors import InputError, RowsLost, SettingsError, UserError
from tasks.core.snapshot_files import FileEntry, FileSink, part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.core.whole_files import write_whole
from tasks.engines import cluster
from tasks.parallel.time_borders import borders
from tasks.stages.text_model.rows import MODEL_FILES, OUTPUTS, SCORES, Array, files_of, read_rows
from tasks.stages.text_model.settings import DeepConfig, TextModelConfig
from tasks.stages.text_model.vocabulary import folded_together

if TYPE_CHECKING:
    from tasks.stages.text_model.worker import Block, TextJob

LIBRARIES = ("torch", "safetensors")
SCHEMA = pa.schema(
    [pa.field("review_id", pa.string(), nullable=False), *(pa.field(name, pa.float32()) for name in SCORES)]
)
CURVES = pa.schema(
    [
        pa.field("block", pa.int32(), nullable=False),
        pa.field("step", pa.int32(), nullable=False),  # done
        pa.field("loss", pa.float64()),  # of the step's reviews; null where it was skipped
        pa.field("validation", pa.float64()),  # null between evaluations
    ]
)


def check_installed(section: str = "text_model") -> None:
    """Raise UserError unless the libraries of the extra `deep` are there. section: of the stage that needs them."""
    if missing := [name for name in LIBRARIES if find_spec(name) is None]:
        raise UserError(
            f"the stage {section.replace('_', '-')} needs {' and '.join(missing)}, which is not installed",
            where=f"{section}.enabled",
            fix=f"pip install -c constraints.txt -e '.[deep]', or set {section}.enabled=false",
        )


def model_files(config: TextModelConfig) -> list[Path]:
    """Return the files of the model to fine-tune: see `pretrained.files_of`."""
    if config.pretrained is None:
        return []
    from tasks.stages.text_model import pretrained

    return pretrained.files_of(config.pretrained)


@stage(
    version=1,
    config=TextModelConfig,
    libraries=("pyarrow", "numpy", *LIBRARIES, "transformers"),
    reads=model_files,
)
def text_model(reviews: Snapshot, tokens: Snapshot, config: TextModelConfig, out: SnapshotWriter) -> None:
    check_installed()
    from tasks.stages.text_model import worker

    files = list(zip(reviews.files(), tokens.files(), strict=True))
    if reviews.rows() < 2 * worker.MIN_ROWS:
        raise InputError(
            f"{reviews.rows():,} reviews are too few to train a text model",
            where="text-model",
            fix="give more data, or set text_model.enabled=false",
        )
    device, ranks = placed(config, "text_model", out.scratch)
    some = [file for file, entry in zip(reviews.files(), reviews.entries(), strict=True) if entry.rows]
    job = worker.TextJob(
        config=config,
        **about(tokens, config),
        cuts=tuple(borders(some, config.borders)),
        total=reviews.rows(),
        folder=out.scratch,
        device=device,
        own_session=cluster.is_own(),
    )
    blocks = trained(job, ranks, files, out)
    scores = gathered(out.scratch, job.total, sum(block.scored for block in blocks))
    write(out, reviews, scores)
    write_model(out, job, blocks)  # the scratch folder stays until the commit: a training may take hours


def about(tokens: Snapshot, config: TextModelConfig) -> dict[str, Any]:
    """Return how the model is built, and the ids that its vocabulary is folded to: `about` and `folds` of a TextJob."""
    from tasks.stages.text_model import pretrained
    from tasks.stages.text_model.model import About

    vocabulary = tokens.facts["vocabulary"]
    end = tokens.facts["end_of_text"] or 0
    if config.pretrained:
        pretrained.check(config.pretrained, tokens.path("tokenizer.json").read_text(), vocabulary, config.max_tokens)
        module, shape = pretrained.load(config.pretrained, len(OUTPUTS), config.seed)
        pretrained.check_length(module, config.max_tokens, "text_model.max_tokens")
        kind = About(kind="hugging-face", config=shape, max_tokens=config.max_tokens, filler=end)
        return {"about": kind, "folds": None}
    folds, size = folded_together(tokens.read("vocabulary")["token"].to_pylist())
    shape = {
        "vocabulary": size + 1,
        "positions": config.max_tokens,
        "outputs": len(OUTPUTS),
        **config.shape.model_dump(),
    }
    return {"about": About(kind="encoder", config=shape, max_tokens=config.max_tokens, filler=size), "folds": folds}


def trained(job: TextJob, ranks: int, files: Sequence[tuple[Path, Path]], out: SnapshotWriter) -> list[Block]:
    """Train on Ray Train, and report progress."""
    from tasks.engines import ray_torch
    from tasks.stages.text_model import worker

    blocks: list[Block] = ray_torch.run(
        ray_torch.Job(
            work=worker.work,
            config={"job": job},
            files=files_of(files),
            read=read_rows,
            read_with={"max_tokens": job.config.max_tokens, "min_votes": job.config.min_votes},
            workers=ranks,
            device=job.device,
            folder=out.scratch,
            watch=Watch(
                out, job.folder / worker.PROGRESS, [job.config.epochs * job.total * b for b in job.config.borders]
            ),
            fix="check text_model; if memory ends, lower text_model.batch or max_tokens",
        )
    )
    if not blocks[-1].trained:
        last = blocks[-1]
        raise InputError(
            f"{last.learned:,} earlier reviews to learn from and {last.validated:,} to validate by are too few",
            where="text-model",
            fix="give more data, raise text_model.validation, or set text_model.enabled=false",
        )
    return blocks


def placed(config: DeepConfig, section: str, folder: Path) -> tuple[str, int]:
    """Return the device and the number of ranks: `shards`, on GPUs at most one each.

    A training goes on as it began, since either changes its bits. Raises SettingsError where there are fewer GPUs now.
    """
    import ray

    from tasks.engines import ray_torch

    file, gpus = folder / "placed.json", int(ray.cluster_resources().get("GPU", 0))
    if not file.exists():
        device = ray_torch.device(config.device, f"{section}.device")
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(
            file, json.dumps([device, min(config.shards, gpus) if device == "cuda" else config.shards]), synced=True
        )
    device, ranks = json.loads(file.read_text())
    if device == "cuda" and gpus < ranks:
        raise SettingsError(
            f"the training began with {ranks} ranks of a GPU each, and Ray has {gpus} now",
            where=section.replace("_", "-"),
            fix=f"go on with as many GPUs, or begin anew: remove {folder}, or set {section}.device=cpu",
        )
    return device, ranks


class Watch:
    """Reports the progress that rank 0 writes: reviews read by all trainings, tokens, the loss and the share
    of the device's operations that the model uses (MFU). reviews: about how many each training reads, at most."""

    def __init__(self, out: SnapshotWriter, file: Path, reviews: Sequence[float], unit: str = "reviews") -> None:
        self.out, self.file, self.reviews, self.unit = out, file, reviews, unit
        self.seen = ""

    def __call__(self) -> None:
        said = self.file.read_text() if self.file.exists() else ""
        if said in ("", self.seen):
            return
        self.seen, told = said, json.loads(said)
        measures = {name: told[key] for name, key in (("loss", "loss"), ("MFU", "mfu")) if told[key] is not None}
        k = told["block"]
        done = sum(self.reviews[:k]) + self.reviews[k] * told["done"] / told["steps"]
        self.out.progress(int(done), int(sum(self.reviews)), self.unit, measures=measures, tokens=told["tokens"])


def gathered(folder: Path, total: int, scored: int) -> Array:
    """Return all scores (total, OUTPUTS), NaN where there is none.

    Raises RowsLost unless `scored` rows have been scored, each once.
    """
    scores = np.full((total, len(OUTPUTS)), np.nan, dtype=np.float32)
    times = np.zeros(total, dtype=np.int64)
    for file in sorted(folder.glob("scores-*.npz")):
        with np.load(file, allow_pickle=False) as held:
            scores[held["row"]] = held["scores"]
            np.add.at(times, held["row"], 1)
    if (times > 1).any() or times.sum() != scored:
        raise RowsLost(
            f"{scored:,} rows to score, {times.sum():,} scores of {(times > 0).sum():,} rows",
            where="text-model",
            fix="this is a bug in the stage; please report it with the input",
        )
    return scores


def write(out: SnapshotWriter, reviews: Snapshot, scores: Array) -> None:
    """Write a file of scores for each file of reviews, in tasks."""
    import ray

    shared, task = ray.put(scores), ray.remote(write_part)
    starts = np.cumsum([0, *(entry.rows or 0 for entry in reviews.entries())]).tolist()
    out.add(
        cluster.gather([task.remote(out.sink, i, file, shared, starts[i]) for i, file in enumerate(reviews.files())])
    )
    out.count(rows_in=reviews.rows(), scored=int((~np.isnan(scores[:, 0])).sum()))


def write_part(sink: FileSink, index: int, file: Path, scores: Array, start: int) -> FileEntry:
    table = pq.ParquetFile(file).read(columns=["review_id"])
    for name, column in zip(SCORES, scores[start : start + table.num_rows].T, strict=True):
        table = table.append_column(name, pa.array(column, from_pandas=True))  # NaN is null
    return sink.write_table(part_name(index), table, SCHEMA)


def write_model(out: SnapshotWriter, job: TextJob, blocks: Sequence[Block]) -> None:
    """Write the last model, the curves of all, and the facts about them."""
    for name in MODEL_FILES:
        out.write_bytes(name, (job.folder / f"block-{len(blocks) - 1}" / name).read_bytes())
    points = [
        {"block": k, "step": i + 1, "loss": None if math.isnan(loss) else loss, "validation": at.get(i + 1)}
        for k, block in enumerate(blocks)
        for at in [dict(block.validations)]
        for i, loss in enumerate(block.losses)
    ]
    out.side_table("curves")
    out.write_table(part_name(0, "curves"), pa.Table.from_pylist(points, schema=CURVES), CURVES)
    out.fact(
        borders=list(job.cuts),
        outputs=list(OUTPUTS),
        model=job.about.kind,
        bit_for_bit=job.device == "cpu" and job.config.threads == 1,  # another training may come to other last bits
        shape={k: v for k, v in job.about.config.items() if isinstance(v, (int, float, str))},
        blocks=[
            {
                "learned": block.learned,
                "validated": block.validated,
                "steps": block.steps,
                "skipped": block.skipped,
                "best_step": block.best_step,
                "best_loss": block.best_loss,
            }
            for block in blocks
        ],
    )
    out.note(device=job.device, resumed_from=[block.resumed for block in blocks])

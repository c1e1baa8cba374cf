"""One rank of the training: its rows, and at each border in time the model's training and the scores of what follows.

    block-K.json, block-K/          of the model trained at border K: what came of it, and its files
    block-K/checkpoint...           of its training, by tasks/deep/loop.py
    scores-K-RANK-FIRST.npz         of the rank's rows from border K to the next, those from FIRST on, and their scores

All are in one folder, which outlives the process: a training that starts again skips what is there.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import train as ray_train
from torch import distributed

from tasks.core import faults
from tasks.core.errors import RunError
from tasks.core.snapshot_files import fsync
from tasks.core.whole_files import write_whole
from tasks.deep import loop
from tasks.deep.plan import Plan, plan
from tasks.deep.settings import TrainingConfig
from tasks.engines import ray_torch
from tasks.stages.text_model import model as models
from tasks.stages.text_model import pretrained
from tasks.stages.text_model.batches import VALIDATION_ROWS, Learning, Validation, drawn
from tasks.stages.text_model.model import About, Scorer
from tasks.stages.text_model.rows import OUTPUTS, Array, Rows
from tasks.stages.text_model.settings import TextModelConfig

MIN_ROWS = 20  # reviews to learn from and to validate by; at a border with fewer before it no model is trained
SCORED_AT_ONCE = 32  # reviews between two looks at the clock
MEET_S = 60.0  # of scoring, after which ranks meet: far below ray_torch.PATIENCE_S
REPORT_S = 0.5
PROGRESS = "progress.json"


@dataclass(frozen=True)
class TextJob:
    """What every rank is given. cuts: (K,) ms. total: rows on all ranks. folds: (vocabulary,) or None."""

    config: TextModelConfig
    about: About
    cuts: tuple[int, ...]
    total: int
    folds: Array | None
    folder: Path
    device: str
    own_session: bool


@dataclass(frozen=True)
class Block:
    """What a training came to. learned, validated: rows; scored: rows of its block. validations: steps done and loss of
    each evaluation. resumed: the step that it went on from, which is no content."""

    learned: int
    validated: int
    scored: int = 0
    steps: int = 0
    skipped: int = 0
    best_step: int | None = None
    best_loss: float | None = None
    losses: tuple[float, ...] = ()
    validations: tuple[tuple[int, float], ...] = ()
    resumed: int = 0

    @property
    def trained(self) -> bool:
        return self.steps > 0


def work(config: dict[str, Any]) -> list[Block]:
    """Train and score as one rank."""
    job: TextJob = config["job"]
    torch.set_num_threads(job.config.threads)
    context = ray_train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    rows = Rows.of(ray_torch.rows_of(job.own_session), rank, size, job.total)
    return Rank(job, rows, plan(device=job.device)).run()


class Rank:
    def __init__(self, job: TextJob, rows: Rows, plan: Plan) -> None:
        self.job, self.config, self.plan = job, job.config, plan
        self.rows = rows if job.folds is None else rows.with_ids(job.folds)
        share = min(1.0, self.config.max_reviews / max(1, job.total))
        number = drawn(rows.row, self.config.seed)
        self.validates = number < self.config.validation * share
        self.learns = ~self.validates & (number < share)
        self.peak = peak_flops(job.device, job.config.precision) if plan.rank == 0 else None

    def run(self) -> list[Block]:
        blocks: list[Block] = []
        ends = [*self.job.cuts[1:], np.iinfo(np.int64).max]
        for k, (start, end) in enumerate(zip(self.job.cuts, ends, strict=True)):
            done = self.job.folder / f"block-{k}.json"
            places = np.flatnonzero((self.rows.ms >= start) & (self.rows.ms < end))
            block = _block(done) if done.exists() else self.train(k, [b.trained for b in blocks])
            if block.trained:
                (scored,) = self._all(np.array([len(places)]), distributed.ReduceOp.SUM)
                block = replace(block, scored=scored)
            if self.plan.rank == 0 and not done.exists():
                write_whole(done, json.dumps(asdict(block)), synced=True)
            distributed.barrier()
            blocks.append(block)
            if block.trained:
                self.score(k, places)
        return blocks

    def train(self, k: int, earlier: list[bool]) -> Block:
        """Train at border k, from the weights of the border before."""
        past = self.rows.ms < self.job.cuts[k]
        learn, hold = np.flatnonzero(past & self.learns), np.flatnonzero(past & self.validates)
        counts = np.array([len(learn), len(hold)])
        learned, validated = self._all(counts, distributed.ReduceOp.SUM)
        most, held = self._all(counts, distributed.ReduceOp.MAX)
        if learned < MIN_ROWS or validated == 0:
            return Block(learned, validated)
        config = self.config
        a_rank = max(1, config.batch // self.plan.world_size)
        steps = -(-most // a_rank)
        training = TrainingConfig(
            steps=config.epochs * steps,
            learning_rate=config.learning_rate,
            warm_up=int(config.warm_up * config.epochs * steps),
            weight_decay=config.weight_decay,
            clip=config.clip,
            precision=config.precision,
            checkpoint_every=config.checkpoint_steps,
            evaluate_every=max(1, steps // config.evaluations),
            patience=config.patience,
            seed=config.seed,
            peak_flops=self.peak,
        )
        folder, filler = self.job.folder / f"block-{k}", self.job.about.filler
        folder.mkdir(parents=True, exist_ok=True)
        trained = loop.train(
            self.begin(k, earlier),
            Learning(self.rows, learn, steps, (config.seed, k), self.plan.rank, filler, config.left_out),
            training,
            loss=models.loss,
            plan=self.plan,
            validation=Validation(self.rows, hold, -(-max(1, held) // min(VALIDATION_ROWS, a_rank)), filler),
            folder=folder / "checkpoint",
            identity={"border": self.job.cuts[k], "model": self.job.about.model_dump(mode="json")},
            on_step=Told(self.job.folder / PROGRESS if self.plan.rank == 0 else None, k, training.steps),
            flops_per_token=self.job.about.flops_per_token,
        )
        if trained.best_loss is None:
            raise RunError(
                "no evaluation gave a number for the validation loss",
                where=f"text-model, border {k}",
                fix="lower text_model.learning_rate, or set text_model.precision=float32",
            )
        if self.plan.rank == 0:
            models.write(folder, self.job.about, trained.weights, self.job.folds)
        return Block(
            learned=learned,
            validated=validated,
            steps=trained.steps,
            skipped=trained.skipped,
            best_step=trained.best_step,
            best_loss=trained.best_loss,
            losses=tuple(trained.losses),
            validations=tuple(trained.validations),
            resumed=trained.resumed,
        )

    def begin(self, k: int, earlier: list[bool]) -> torch.nn.Module:
        """Return the model to train on: the latest trained one, or a new one."""
        if True in earlier:
            latest = len(earlier) - 1 - earlier[::-1].index(True)
            return Scorer.load(self.job.folder / f"block-{latest}").module.train()
        if self.config.pretrained:
            return pretrained.load(self.config.pretrained, len(OUTPUTS), self.config.seed)[0].train()
        return models.skeleton(self.job.about, self.config.seed).train()

    def score(self, k: int, places: Array) -> None:
        """Score the rank's rows of a block, those that earlier tries have left.

        Ranks meet every MEET_S: one that has less to do, since it was not killed, waits for the others no longer.
        """
        scorer = Scorer.load(self.job.folder / f"block-{k}")
        places = places[np.argsort(self.rows.lengths[places], kind="stable")]  # alike ones fill a batch together
        left = places[self.scored(k) :]
        while any(self._all(np.array([len(left)]), distributed.ReduceOp.SUM)):
            scores = self.scores_of_first(left, scorer)
            if len(scores):
                file = self.job.folder / f"scores-{k}-{self.plan.rank}-{len(places) - len(left)}.npz"
                draft = file.with_name(f"draft-{file.name}")
                with draft.open("wb") as held:
                    np.savez(held, row=self.rows.row[left[: len(scores)]], scores=scores)
                    fsync(held)
                draft.replace(file)
            left = left[len(scores) :]
        torch.set_num_threads(self.config.threads)

    def scores_of_first(self, places: Array, scorer: Scorer) -> Array:
        """Return the scores of the first of these rows: of as many as MEET_S suffices for."""
        began, scores = time.monotonic(), [np.zeros((0, len(OUTPUTS)), dtype=np.float32)]
        for start in range(0, len(places), SCORED_AT_ONCE):
            scores.append(scorer.score_own([self.rows.ids(i) for i in places[start : start + SCORED_AT_ONCE]]))
            if time.monotonic() - began >= MEET_S:
                break
        return np.concatenate(scores)

    def scored(self, k: int) -> int:
        """Count the rank's rows of a block that have been scored: the first ones."""
        count = 0
        for file in self.job.folder.glob(f"scores-{k}-{self.plan.rank}-*.npz"):
            with np.load(file, allow_pickle=False) as held:
                count += len(held["row"])
        return count

    def _all(self, values: Array, how: Any) -> list[int]:
        tensor = torch.from_numpy(values.astype(np.int64)).to(self.job.device)
        distributed.all_reduce(tensor, op=how)
        return [int(v) for v in tensor.cpu()]


@dataclass
class Told:
    """Writes what rank 0 does to a file, for the driver, each REPORT_S. file: None on other ranks."""

    file: Path | None
    block: int
    steps: int
    stage: str = "text-model"
    tokens: int = 0
    last: float = 0.0

    def __call__(self, step: loop.Step) -> None:
        self.tokens += step.tokens
        if self.file and (time.monotonic() - self.last >= REPORT_S or step.step + 1 == self.steps):
            self.last = time.monotonic()
            told = {"block": self.block, "done": step.step + 1, "steps": self.steps, "tokens": self.tokens}
            write_whole(self.file, json.dumps({**told, "loss": step.loss, "mfu": step.utilization}))
        faults.point(self.stage, "step", step.step)


def _block(file: Path) -> Block:
    read = json.loads(file.read_text())
    validations = tuple((int(step), float(loss)) for step, loss in read.pop("validations"))
    return Block(**{**read, "losses": tuple(read["losses"])}, validations=validations)


def peak_flops(device: str, precision: str) -> float:
    """Measure a rank's operations per second, by products of two matrices: what a model could come to."""
    n = 512 if device == "cpu" else 8192  # smaller products leave a GPU waiting for the next
    a = torch.ones(n, n, device=device, dtype=getattr(torch, precision))
    float(torch.mm(a, a)[0, 0])  # waits for a GPU
    began = time.perf_counter()
    for _ in range(10):
        b = torch.mm(a, a)
    float(b[0, 0])
    return 10 * 2 * n**3 / (time.perf_counter() - began)

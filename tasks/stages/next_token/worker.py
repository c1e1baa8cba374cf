"""One rank of the training of next tokens: its blocks, the training, and the losses of the blocks for the test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import train as ray_train
from safetensors.torch import load_file, save
from torch import Tensor, distributed, nn

from tasks.core.errors import InputError
from tasks.core.whole_files import write_whole
from tasks.deep import loop
from tasks.deep.batches import Batch, filled
from tasks.deep.encoder import build, flops_per_token
from tasks.deep.losses import next_token
from tasks.deep.plan import Plan, plan
from tasks.deep.settings import EncoderConfig, TrainingConfig
from tasks.engines import ray_torch
from tasks.stages.next_token.blocks import Array, Blocks, Rows
from tasks.stages.next_token.settings import NextTokenConfig
from tasks.stages.text_model import pretrained
from tasks.stages.text_model.batches import drawn
from tasks.stages.text_model.worker import PROGRESS, Told, peak_flops

WEIGHTS, KNOWN = "next_token.safetensors", "known"
TEST_ROWS = 16  # in a batch without gradients, at most: a row's logits are context x vocabulary


@dataclass(frozen=True)
class NextTokenJob:
    """What every rank is given. vocabulary: of the tokenizer. written: ids before the padding, in `total` blocks."""

    config: NextTokenConfig
    vocabulary: int
    size: int
    total: int
    written: int
    folder: Path
    device: str
    own_session: bool


@dataclass(frozen=True)
class Learned:
    """What the training came to. blocks: to learn from, to validate by and to test on."""

    shape: dict[str, Any]
    blocks: tuple[int, int, int]
    steps: int
    losses: list[float]
    validations: list[tuple[int, float]]
    best_step: int | None
    resumed: int


def work(config: dict[str, Any]) -> Learned:
    """Train and test as one rank."""
    job: NextTokenJob = config["job"]
    torch.set_num_threads(job.config.threads)
    context = ray_train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    tables = ray_torch.rows_of(job.own_session)
    blocks = Blocks.of(tables, rank, size, job.size, job.total, job.written)
    return Rank(job, blocks, plan(device=job.device)).run()


class Rank:
    def __init__(self, job: NextTokenJob, blocks: Blocks, plan: Plan) -> None:
        self.job, self.config, self.plan = job, job.config, plan
        self.a_rank = max(1, self.config.batch // plan.world_size)  # rows of a step
        number = drawn(blocks.number, self.config.seed)
        test, held = self.config.test, self.config.test + self.config.validation
        places = [
            np.flatnonzero(which) for which in (number >= held, (number >= test) & (number < held), number < test)
        ]
        self.numbers = self._sum(np.array([len(p) for p in places]))
        self.learn, self.hold, self.test = (blocks.rows(p, self.config.context) for p in places)
        self.counts = self._sum(np.bincount(self.learn.following[self.learn.counts], minlength=job.vocabulary))

    def run(self) -> Learned:
        if min(self.numbers) == 0:
            raise InputError(
                f"{self.job.total:,} blocks are too few: {self.numbers[0]} to learn from, {self.numbers[1]} to "
                f"validate by, {self.numbers[2]} to test on",
                where="next-token",
                fix="give more data, or lower pack_tokens.block_size",
            )
        model, shape, known = self.model()
        folds = None if known is None else folds_of(known, self.job.vocabulary)
        config = self.config
        trained = loop.train(
            model.train(),
            Sequences(self.learn, folds, self.a_rank, config.seed, self.plan.rank),
            TrainingConfig(
                steps=config.steps,
                learning_rate=config.learning_rate,
                warm_up=int(config.warm_up * config.steps),
                weight_decay=config.weight_decay,
                clip=config.clip,
                precision=config.precision,
                checkpoint_every=config.checkpoint_steps,
                evaluate_every=config.evaluate_steps,
                patience=config.patience,
                seed=config.seed,
                peak_flops=peak_flops(self.job.device, config.precision) if self.plan.rank == 0 else None,
            ),
            loss=next_token,
            plan=self.plan,
            validation=lambda: in_order(self.hold, folds, self.a_rank),
            folder=self.job.folder / "checkpoint",
            identity={"shape": shape},
            on_step=Told(self.job.folder / PROGRESS if self.plan.rank == 0 else None, 0, config.steps, "next-token"),
            flops_per_token=flops(shape, config.context),
        )
        self.measure(model, trained.weights, known, folds)
        blocks = (self.numbers[0], self.numbers[1], self.numbers[2])
        return Learned(
            shape, blocks, trained.steps, trained.losses, trained.validations, trained.best_step, trained.resumed
        )

    def model(self) -> tuple[nn.Module, dict[str, Any], Array | None]:
        """Return the model to train, its shape, and the ids that it knows: all of them, or the most frequent."""
        config = self.config
        if config.pretrained:
            return *pretrained.load_causal(config.pretrained), None
        known = np.argsort(-np.array(self.counts), kind="stable")[: config.vocabulary]
        shape = EncoderConfig(
            vocabulary=len(known) + 1,
            positions=config.context,
            objective="next-token",
            **config.shape.model_dump(),
        )
        return build(shape, config.seed), shape.model_dump(), known

    def measure(self, model: nn.Module, weights: dict[str, Tensor], known: Array | None, folds: Array | None) -> None:
        """Write the weights, and the losses of this rank's test tokens, in nats: the model's, and those of the tokens'
        frequencies alone."""
        if self.plan.rank == 0:
            save_weights(self.job.folder, weights, known)
        distributed.barrier()
        held = load_file(self.job.folder / WEIGHTS)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(held[name])
        model.eval()
        counts: Array = np.array(self.counts, dtype=np.float64)
        if folds is not None:  # the model knows no more of a rare id than that it is rare
            counts = np.bincount(folds, counts)[folds].astype(np.float64)
        ids = int(folds.max()) + 1 if folds is not None else self.job.vocabulary
        alone = -np.log((counts + 1) / (sum(self.counts) + ids))
        nats = [np.zeros(0, dtype=np.float32)]
        with torch.inference_mode():
            for batch in in_order(self.test, folds, self.a_rank):
                losses = next_token(model(batch["tokens"].to(self.job.device), batch["mask"].to(self.job.device)),
                                    batch["target"].to(self.job.device)).cpu().numpy()  # fmt: skip
                nats.append(losses[batch["weight"].numpy() > 0])
        at = self.test.counts
        draft = self.job.folder / f"draft-{self.plan.rank}.npz"
        frequency = alone[self.test.following[at]].astype(np.float32)
        np.savez(draft, position=self.test.position[at], nats=np.concatenate(nats), frequency=frequency)
        draft.replace(self.job.folder / f"test-{self.plan.rank}.npz")
        distributed.barrier()

    def _sum(self, values: Array) -> list[int]:
        tensor = torch.from_numpy(values.astype(np.int64)).to(self.job.device)
        distributed.all_reduce(tensor)
        return [int(v) for v in tensor.cpu()]


@dataclass(frozen=True)
class Sequences:
    """Batches of rows in an order of the seed, the epoch and the rank, without end."""

    rows: Rows
    folds: Array | None
    size: int
    seed: int
    rank: int

    def __call__(self, first: int) -> Iterator[Batch]:
        steps = max(1, -(-len(self.rows) // self.size))
        epoch, step = divmod(first, steps)
        while True:
            order = np.random.default_rng([self.seed, epoch, self.rank]).permutation(len(self.rows))
            for places in np.array_split(order, steps)[step:]:
                yield batch_of(self.rows, places, self.folds)
            epoch, step = epoch + 1, 0


def in_order(rows: Rows, folds: Array | None, most: int) -> Iterator[Batch]:
    """Yield batches of TEST_ROWS rows, or `most` if that is less; of no rows, one without weight."""
    size = min(TEST_ROWS, most)
    for start in range(0, max(1, len(rows)), size):
        yield batch_of(rows, np.arange(start, min(start + size, len(rows))), folds)


def batch_of(rows: Rows, places: Array, folds: Array | None) -> Batch:
    """Return a batch of `tasks.deep.batches` of these rows. folds: (vocabulary,) the model's own ids."""
    ids, following = (a[places].astype(np.int64) for a in (rows.ids, rows.following))
    if folds is not None:
        ids, following = folds[ids], folds[following]
    batch = {
        "tokens": torch.from_numpy(ids),
        "mask": torch.ones(ids.shape, dtype=torch.bool),
        "target": torch.from_numpy(following),
        "weight": torch.from_numpy(rows.counts[places].astype(np.float32)),
    }
    return filled(batch, 1)


def folds_of(known: Array, vocabulary: int) -> Array:
    """Return (vocabulary,) int64: a known id's place in `known`, and of all others the one after it."""
    folds = np.full(vocabulary, len(known), dtype=np.int64)
    folds[known] = np.arange(len(known))
    return folds


def save_weights(folder: Path, weights: dict[str, Tensor], known: Array | None) -> None:
    """Write WEIGHTS at once or not at all. known: (n,) the ids that the model knows, in its own order; None: all."""
    tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
    if known is not None:
        tensors[KNOWN] = torch.from_numpy(known.astype(np.int32))
    write_whole(folder / WEIGHTS, save(tensors))


def flops(shape: dict[str, Any], context: int) -> float:
    if "model_type" in shape:
        return pretrained.flops_per_token(shape)
    return flops_per_token(EncoderConfig(**shape), context)

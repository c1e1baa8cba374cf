"""Train a model of texts or of pictures under any launcher: alone, torchrun, Accelerate, `srun torchrun`.

    python -m tasks.deep.launch --synthetic 512 --set training.steps=20
    torchrun --standalone --nproc-per-node 2 -m tasks.deep.launch --set parallel.zero=2 --folder /tmp/model
    accelerate launch --config_file deploy/deep/accelerate.yaml -m tasks.deep.launch --device cpu --tokens SNAPSHOT
    python -m tasks.deep.launch --pictures FOLDER --set model.side=64

In: with --tokens, a snapshot of the stage pack-tokens or tokenize, or other files of ids (tasks/deep/token_rows.py),
for next-token training; with --pictures, JPEGs in a folder of each class (tasks/deep/pictures.py); otherwise synthetic
rows whose target is the share of low tokens. Out: a line of JSON for each step and one at the end, from rank 0 (a
picture counts as a token); with --folder, checkpoints, and model.safetensors beside model.json. Started again, it goes
on from the last checkpoint. Settings: tasks/deep/settings.py, as `--set model.width=128`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from tasks.deep import installed

if __name__ == "__main__":
    installed.check()

import torch
import yaml
from pydantic import Field, ValidationError
from safetensors.torch import save
from torch import distributed, nn

from tasks.core.errors import InputError, RaymillError, SettingsError
from tasks.core.sections import Section
from tasks.core.whole_files import write_whole
from tasks.deep import cnn, encoder, pictures
from tasks.deep.agreed import same_on_all_ranks
from tasks.deep.batches import Batch, ShuffledRows
from tasks.deep.loop import Step, train
from tasks.deep.losses import Loss, classes, next_token, squared_error
from tasks.deep.plan import plan
from tasks.deep.profiling import profiled
from tasks.deep.settings import CnnConfig, EncoderConfig, ParallelConfig, TrainingConfig
from tasks.deep.token_rows import check_ids, from_files

CHECKPOINT_EVERY = 100  # steps, with --folder, where nothing else is said


class LaunchConfig(Section):
    model: EncoderConfig | CnnConfig
    training: TrainingConfig = TrainingConfig()
    parallel: ParallelConfig = ParallelConfig()
    step_rows: int = Field(default=32, ge=1, description="Rows of a step, over all replicas")


class TextLaunch(LaunchConfig):
    model: EncoderConfig


class PictureLaunch(LaunchConfig):
    model: CnnConfig = CnnConfig()


@dataclass(frozen=True)
class Work:
    """What is trained on what. saved: what model.json says of the model; its weights belong to it."""

    model: nn.Module
    rows: Batch
    loss: Loss
    flops_per_token: float
    saved: dict[str, Any]


@contextmanager
def joined(device: str, timeout_s: float = 600.0) -> Iterator[None]:
    """Join the process group that a launcher's variables describe; alone without them.

    A group that is on this machine alone talks over loopback.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    here = os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE"))  # DeepSpeed's launcher has the second
    if here == os.environ["WORLD_SIZE"]:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    if device == "cuda":
        index, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if index >= there:
            what = f"rank {index} of this machine, {there} GPUs"
            raise InputError(what, where="--device", fix="a rank a GPU, or --device cpu")
        torch.cuda.set_device(index)
    distributed.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    try:
        yield
    except BaseException:
        # NCCL would wait here for ranks that wait for this one. The process's end tells the launcher.
        if device == "cpu":
            distributed.destroy_process_group()
        raise
    distributed.destroy_process_group()


def synthetic(rows: int, model: EncoderConfig, seed: int = 0) -> Batch:
    """Rows of different lengths whose target is how many of their tokens are in the lower half of the vocabulary."""
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, model.vocabulary, (rows, model.positions), generator=random)
    lengths = torch.randint(1, model.positions + 1, (rows, 1), generator=random)
    mask = torch.arange(model.positions) < lengths
    low = ((tokens < model.vocabulary // 2) & mask).sum(1, keepdim=True) / lengths
    return {"tokens": tokens, "mask": mask, "target": low.float(), "weight": torch.ones(rows, 1)}


def digest(rows: Batch) -> str:
    """Return what tells these rows from others: a checkpoint belongs to one data set."""
    sha = hashlib.sha256()
    for name, tensor in sorted(rows.items()):
        sha.update(f"{name} {tuple(tensor.shape)}".encode())
        sha.update(tensor.contiguous().numpy())
    return sha.hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tasks.deep.launch", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--tokens",
        type=Path,
        help="snapshot of pack-tokens or tokenize, or parquet with input_ids, for next-token training",
    )
    parser.add_argument("--pictures", type=Path, help="a folder with a folder of JPEGs for each class")
    parser.add_argument("--synthetic", type=int, default=256, help="rows to make, without --tokens and --pictures")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--folder", type=Path, help="for checkpoints and the model; shared by all machines")
    parser.add_argument("--profile", type=Path, metavar="TRACE", help="write a trace of torch's profiler")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    given = parser.parse_args(arguments)
    device = given.device if given.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if device == "cuda" and not torch.cuda.is_available():
            raise InputError("no GPU here", where="--device", fix="--device cpu, or a build of torch for GPUs")
        if given.tokens and given.pictures:
            raise InputError("both are given", where="--tokens and --pictures", fix="give one")
        config = settings(
            given.settings, "pictures" if given.pictures else "next-token" if given.tokens else "regression"
        )
        torch.backends.cudnn.allow_tf32 = False  # or convolutions in float32 would round to 10 bits on a GPU
        with joined(device):
            run(config, given, device)
    except RaymillError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)


def settings(overrides: Sequence[str], objective: str) -> LaunchConfig:
    """objective: regression, next-token or pictures. Raises SettingsError for an unknown key or an impossible value,
    naming it."""
    tree: dict[str, Any] = {} if objective == "pictures" else {"model": {"objective": objective}}
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise SettingsError(f"{override!r} is not KEY=VALUE", where="--set", fix="for example model.width=128")
        *groups, key = name.split(".")
        place = tree
        for group in groups:
            place = place.setdefault(group, {})
            if not isinstance(place, dict):
                raise SettingsError(f"{group} is a value, not a group", where=f"--set {name}", fix="give it once")
        try:
            place[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise SettingsError(
                f"{text!r} is no value", where=f"--set {name}", fix="a number, a word or null"
            ) from None
    try:
        config = PictureLaunch.model_validate(tree) if objective == "pictures" else TextLaunch.model_validate(tree)
        given = config.model
        if isinstance(given, EncoderConfig) and (
            given.objective != objective or (objective == "regression" and given.outputs != 1)
        ):
            what = "--tokens trains the next token, synthetic rows a regression with one output"
            raise SettingsError(what, where="model.objective and model.outputs", fix="leave both out")
        if config.training.evaluate_every:
            what = "all rows are learned from, and none is left to validate by"
            raise SettingsError(what, where="training.evaluate_every", fix="leave it and training.patience out")
        return config
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"{key}: {first['msg']}", where="--set", fix="see tasks/deep/settings.py") from None


def run(config: LaunchConfig, given: argparse.Namespace, device: str) -> None:
    """Train, and let rank 0 say and save it."""
    place = plan(config.parallel, device)
    training = config.training
    if given.folder and given.pictures and given.folder.resolve().is_relative_to(given.pictures.resolve()):
        raise InputError("it would be a class of the pictures", where="--folder", fix="a folder beside them")
    work = work_of(config, given, print if place.rank == 0 else lambda *_, **__: None)
    rows = digest(work.rows)
    same_on_all_ranks(rows, "the rows that they have read", place)
    if given.folder:
        try:
            given.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot be made ({error})", where="--folder", fix="a folder to write to") from error
        if not training.checkpoint_every:
            training = training.model_copy(update={"checkpoint_every": CHECKPOINT_EVERY})
    batches = ShuffledRows(work.rows, config.step_rows, training.seed, place.replica, place.replicas)

    def say(step: Step) -> None:
        if place.rank == 0:
            print(json.dumps({**asdict(step), "tokens_per_second": round(step.tokens_per_second)}), flush=True)

    with profiled(given.profile, place.rank, device, lambda table: print(table, file=sys.stderr)):
        trained = train(
            work.model,
            batches,
            training,
            loss=work.loss,
            plan=place,
            folder=given.folder,
            identity={"model": work.saved, "step_rows": config.step_rows, "rows": rows},
            on_step=say,
            flops_per_token=work.flops_per_token,
        )
    if place.rank > 0:
        return
    if given.folder:
        write_whole(given.folder / "model.safetensors", save(trained.weights))
        write_whole(given.folder / "model.json", json.dumps(work.saved, indent=1))
    done = {"steps": trained.steps, "skipped": trained.skipped, "resumed": trained.resumed}
    loss = trained.losses[-1] if math.isfinite(trained.losses[-1]) else None
    print(json.dumps({**done, "loss": loss, "ranks": place.world_size}), flush=True)


def work_of(config: LaunchConfig, given: argparse.Namespace, say: Callable[..., None]) -> Work:
    """Read or make the rows, and build their model."""
    if isinstance(config.model, CnnConfig):
        return picture_work(config.model, given.pictures, config.training.seed, say)
    if given.synthetic < 1:
        raise InputError(f"{given.synthetic} rows", where="--synthetic", fix="at least one")
    model = config.model
    rows = from_files(given.tokens, model.positions) if given.tokens else synthetic(given.synthetic, model)
    if given.tokens:
        check_ids(rows, model.vocabulary)
    return Work(
        encoder.build(model, config.training.seed),
        rows,
        next_token if given.tokens else squared_error,
        encoder.flops_per_token(model, rows["tokens"].shape[1]),
        model.model_dump(),
    )


def picture_work(model: CnnConfig, folder: Path, seed: int, say: Callable[..., None]) -> Work:
    """Read the pictures, and say which files are left out."""
    found = pictures.from_folder(folder, model.side)
    if found.left_out:
        count, (first, reason) = len(found.left_out), found.left_out[0]
        say(
            f"{count} of {count + len(found.rows['tokens'])} files are left out, first {first}: {reason}",
            file=sys.stderr,
        )
    names = found.classes
    return Work(
        cnn.build(model, len(names), seed),
        found.rows,
        classes,
        cnn.flops_per_picture(model, len(names)),
        {**model.model_dump(), "classes": names},
    )


if __name__ == "__main__":
    main()

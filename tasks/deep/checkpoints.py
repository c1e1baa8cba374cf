"""Checkpoints: whole tensors in one safetensors file, and a JSON that makes it valid. Never pickle.

    step-00000020.safetensors    model.NAME, exp_avg.NAME, exp_avg_sq.NAME, best.NAME, in float32
    step-00000020.json           written last: step, counters, losses, identity, the file's digest

Tensors are whole whatever the plan was, so training goes on with other replicas, slices or stages than it began with;
with the same ones on one thread a rank, to the same weights bit for bit. The newest two are kept. Rank 0 writes, all
ranks read: the folder must be the same for all.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save, save_file
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from tasks.core import faults
from tasks.core.digests import digest_of, file_sha256
from tasks.core.errors import InputError, RunError
from tasks.core.whole_files import write_whole
from tasks.deep import zero
from tasks.deep.plan import DATA, Plan

FORMAT, KEPT = 1, 2
MOMENTS = ("exp_avg", "exp_avg_sq")


def gathered(
    tensors: dict[str, Tensor], owners: dict[str, int], shapes: dict[str, Any], plan: Plan
) -> dict[str, Tensor]:
    """Return whole copies on rank 0's CPU; every rank calls it with the tensors of its stage, in the same order.

    owners: the replica that alone has a tensor, by name; others pass what is not looked at. shapes: of such tensors.
    """
    whole = {}
    for name, shape in shapes.items():
        tensor = tensors.get(name)
        if name in owners:
            tensor = torch.zeros(shape, device=plan.device) if tensor is None else tensor.contiguous()
            root = distributed.get_global_rank(plan.group(DATA), owners[name])
            distributed.broadcast(tensor, root, group=plan.group(DATA))
        assert tensor is not None
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if plan.replica == plan.slice == 0:
            whole[name] = full.detach().to("cpu", torch.float32, copy=True).contiguous()
    return _from_stages(whole, plan)


def _from_stages(mine: dict[str, Tensor], plan: Plan) -> dict[str, Tensor]:
    """Send every stage's tensors to rank 0, from the stage's first rank: between CPUs, which gloo does."""
    leads = [stage * plan.replicas * plan.layout.tensor for stage in range(plan.layout.pipeline)]
    if plan.rank not in leads:
        return {}
    if plan.rank > 0:
        data = torch.frombuffer(bytearray(save(mine)), dtype=torch.uint8)
        for part in (torch.tensor([len(data)]), data):
            distributed.send(part, 0)
        return {}
    for lead in leads[1:]:
        length = torch.zeros(1, dtype=torch.int64)
        distributed.recv(length, lead)
        data = torch.empty(int(length), dtype=torch.uint8)
        distributed.recv(data, lead)
        mine |= load(data.numpy().tobytes())
    return mine


def place(whole: Tensor, into: Tensor) -> None:
    """Copy this rank's part of a whole tensor."""
    with torch.no_grad():
        if isinstance(into, DTensor):
            shape, offset = compute_local_shape_and_global_offset(into.shape, into.device_mesh, into.placements)
            part = tuple(slice(o, o + s) for o, s in zip(offset, shape, strict=True))
            into.to_local().copy_(whole[part])
        else:
            into.copy_(whole)


def state(parameters: dict[str, Tensor], optimizer: Any, best: dict[str, Tensor], plan: Plan) -> dict[str, Tensor]:
    """Gather all that training needs to go on; on rank 0, empty on others."""
    held = zero.local(optimizer).state
    of_rank = zero.owners(optimizer)
    tensors: dict[str, Tensor] = {f"model.{name}": p.detach() for name, p in parameters.items()}
    shapes = {f"model.{name}": p.shape for name, p in parameters.items()}
    owners: dict[str, int] = {}
    for moment in MOMENTS:
        for name, parameter in parameters.items():
            key = f"{moment}.{name}"
            shapes[key] = parameter.shape
            if parameter in of_rank:
                owners[key] = of_rank[parameter]
            if of_rank.get(parameter, plan.replica) == plan.replica:
                tensors[key] = held[parameter][moment] if held.get(parameter) else torch.zeros_like(parameter)
    for name, tensor in best.items():
        tensors[f"best.{name}"], shapes[f"best.{name}"] = tensor, tensor.shape
    return gathered(tensors, owners, shapes, plan)


def restore(file: Path, parameters: dict[str, Tensor], optimizer: Any, updates: int, plan: Plan) -> dict[str, Tensor]:
    """Put a checkpoint's tensors where they belong, and return the best weights so far, empty if there are none.

    Raises InputError for tensors of other names or shapes.
    """
    held, of_rank = zero.local(optimizer).state, zero.owners(optimizer)
    best: dict[str, Tensor] = {}
    with safe_open(file, framework="pt") as stored:
        names = set(stored.keys())
        for name, parameter in parameters.items():
            key = f"model.{name}"
            if key not in names or tuple(stored.get_slice(key).get_shape()) != tuple(parameter.shape):
                shape = stored.get_slice(key).get_shape() if key in names else "nothing"
                raise InputError(
                    f"{name} is {tuple(parameter.shape)} in the model, {shape} in the checkpoint",
                    where=str(file),
                    fix="another folder, or the model that it was made with",
                )
            place(stored.get_tensor(key), parameter)
            if updates and of_rank.get(parameter, plan.replica) == plan.replica:
                moments = {moment: torch.zeros_like(parameter) for moment in MOMENTS}
                for moment, tensor in moments.items():
                    place(stored.get_tensor(f"{moment}.{name}"), tensor)
                held[parameter] = {"step": torch.tensor(float(updates), device=plan.device), **moments}
            if f"best.{name}" in names:
                best[name] = torch.empty_like(parameter)
                place(stored.get_tensor(f"best.{name}"), best[name])
    return best


def write(folder: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any], rank: int) -> None:
    """Commit a checkpoint: the tensors first, the JSON last. What was there before stays valid until then."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"step-{step:08d}.safetensors"
    draft = file.with_suffix(".draft")
    save_file(tensors, draft)
    with draft.open("rb+") as written:
        os.fsync(written.fileno())
    os.replace(draft, file)
    faults.point(f"deep-{rank}", "checkpoint-json", step)
    content = {"format": FORMAT, "step": step, **facts, "sha256": file_sha256(file)}
    write_whole(file.with_suffix(".json"), json.dumps(content, indent=1), synced=True)
    for old in sorted(folder.glob("step-*.json"))[:-KEPT]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)


def newest(folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Return the facts of the newest checkpoint that is whole; None if there is none.

    Raises InputError for a checkpoint of another identity, naming the first setting that differs.
    """
    for path in sorted(folder.glob("step-*.json"), reverse=True):
        try:
            facts: dict[str, Any] = json.loads(path.read_text())
            whole = facts["sha256"] == file_sha256(path.with_suffix(".safetensors"))
        except (OSError, ValueError, KeyError):
            continue
        if not whole:
            continue
        if facts.get("format") != FORMAT or digest_of(facts["identity"]) != digest_of(identity):
            raise InputError(
                f"the checkpoint was made with other settings: {_difference(facts['identity'], identity)}",
                where=str(path),
                fix="another folder, or the settings that it was made with; remove it to start anew",
            )
        return facts
    return None


def facts_of(file: Path) -> dict[str, Any]:
    """Return what a checkpoint's JSON says."""
    facts: dict[str, Any] = json.loads(file.with_suffix(".json").read_text())
    return facts


def opened(file: Path) -> None:
    """Raises RunError where a rank does not see the file that rank 0 found."""
    try:
        with safe_open(file, framework="pt"):
            pass
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"this rank cannot read the checkpoint ({error})", where=str(file), fix="a folder that all ranks share"
        ) from error


def _difference(theirs: Any, ours: Any, path: str = "") -> str:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted({*theirs, *ours}):
            if theirs.get(key) != ours.get(key):
                return _difference(theirs.get(key), ours.get(key), f"{path}.{key}".lstrip("."))
    return f"{path} was {theirs!r}, is {ours!r}"

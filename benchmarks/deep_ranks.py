"""Train a text model in a rank and tell what it took: seconds, bytes sent, memory by kind, a pipeline's waiting.

Every number is of this rank. Seconds and bytes are of the steps after the warm-up, between barriers. Memory is added up
from tensors: parameters, gradients and the optimizer's state between a backward pass and the update; activations are
what autograd holds at most at a time. Bytes are those of the loopback device, so of all processes on the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.deep.settings import EncoderConfig, ParallelConfig, TrainingConfig

WARM_UP = 2


@dataclass(frozen=True)
class Way:
    """One setting to measure."""

    model: EncoderConfig
    step_rows: int
    steps: int
    parallel: ParallelConfig
    accumulate: int = 1
    precision: str = "float32"
    recompute: bool = False

    @property
    def training(self) -> TrainingConfig:
        return TrainingConfig(
            steps=self.steps + WARM_UP,
            accumulate=self.accumulate,
            precision=self.precision,  # type: ignore[arg-type]
            recompute=self.recompute,
        )


def measure(way: Way) -> dict[str, Any]:
    """Train on this rank. losses: of all steps."""
    from torch import distributed

    from tasks.deep.batches import ShuffledRows
    from tasks.deep.encoder import build
    from tasks.deep.launch import synthetic
    from tasks.deep.loop import Step, Training
    from tasks.deep.losses import squared_error
    from tasks.deep.plan import plan

    place = plan(way.parallel)
    rows = synthetic(4 * way.step_rows, way.model)
    batches = ShuffledRows(rows, way.step_rows, 0, place.replica, place.replicas)
    training = Training(build(way.model, 0), way.training, squared_error, place, None, None)
    ends: list[float] = []
    cpu: list[float] = []
    sent: list[int] = []
    tokens: list[int] = []

    def told(step: Step) -> None:
        distributed.barrier()
        ends.append(time.perf_counter())
        cpu.append(time.process_time())
        sent.append(sent_over_loopback())
        tokens.append(step.tokens)

    with activations(training) as held, waiting(distributed.barrier) as busy:
        trained = training.run(batches, None, told, 0.0)
        # Autograd refers to gathered parameters as well.
        kind = "activations_and_gathered" if way.parallel.zero >= 2 else "activations"
        memory = {**bytes_held(training), kind: held.most}
    first = WARM_UP - 1
    wall_s = ends[-1] - ends[first]
    return {
        "wall_s": wall_s,
        "cpu_s": cpu[-1] - cpu[first],
        "tokens": sum(tokens[WARM_UP:]),
        "sent_bytes": (sent[-1] - sent[first]) // way.steps,
        "memory": memory,
        "bubble": busy.share(),
        "pass_s": busy.passes(way.parallel.micro_batches),
        "losses": trained.losses,
    }


def bytes_held(training: Any) -> dict[str, int]:
    """Return bytes of what this rank keeps between steps. Gradients are still there: the next step drops them."""
    from tasks.deep import zero

    def size(tensor: Any) -> int:
        part = local(tensor)
        return int(part.numel() * part.element_size())

    parameters = training.parameters.values()
    states = zero.local(training.optimizer).state.values()
    return {
        "parameters": sum(size(p) for p in parameters),
        "gradients": sum(size(p.grad) for p in parameters if p.grad is not None),
        "optimizer": sum(size(value) for state in states for value in state.values()),
    }


def local(tensor: Any) -> Any:
    """Return what this rank holds of a tensor."""
    import torch
    from torch.distributed.tensor import DTensor

    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class _Most:
    """Bytes of storages that autograd holds, now and at most."""

    def __init__(self, ignored: set[int]) -> None:
        self.ignored, self.users, self.now, self.most = ignored, dict[int, int](), 0, 0

    def pack(self, tensor: Any) -> Any:
        part = local(tensor)
        return tensor if part.data_ptr() in self.ignored else _Held(self, tensor, part.untyped_storage())

    @staticmethod
    def unpack(held: Any) -> Any:
        return held.tensor if isinstance(held, _Held) else held


class _Held:
    def __init__(self, most: _Most, tensor: Any, storage: Any) -> None:
        self.most, self.tensor, self.key, self.size = most, tensor, storage.data_ptr(), storage.nbytes()
        users = most.users.get(self.key, 0)
        most.users[self.key] = users + 1
        most.now += 0 if users else self.size
        most.most = max(most.most, most.now)

    def __del__(self) -> None:
        self.most.users[self.key] -= 1
        if not self.most.users[self.key]:
            del self.most.users[self.key]
            self.most.now -= self.size


@contextmanager
def activations(training: Any) -> Iterator[_Most]:
    """Count what autograd holds; parameters, which it refers to as well, are no activations."""
    from torch.autograd.graph import saved_tensors_hooks

    most = _Most({local(p).data_ptr() for p in training.parameters.values()})
    with saved_tensors_hooks(most.pack, most.unpack):
        yield most


@dataclass
class _Busy:
    """Seconds of this stage's passes, and of steps until all stages have ended theirs. runs: with the warm-up's."""

    forward_s: float = 0.0
    backward_s: float = 0.0
    whole_s: float = 0.0
    runs: int = 0

    def share(self) -> float | None:
        """Return the share of the steps in which this stage waits; None without a pipeline."""
        return 1 - (self.forward_s + self.backward_s) / self.whole_s if self.whole_s else None

    def passes(self, micro_batches: int) -> dict[str, float]:
        """Return seconds of a micro-batch's passes through this stage."""
        count = max(1, self.runs - WARM_UP) * micro_batches
        return {"forward": self.forward_s / count, "backward": self.backward_s / count}


@contextmanager
def waiting(together: Callable[[], Any]) -> Iterator[_Busy]:
    """Time a pipeline's steps and what this stage computes in them; the first WARM_UP steps are left out.

    together: waits until all stages are there. The last stage ends its step before the first one does, and what it
    waits then is part of its bubble.
    """
    from torch.distributed.pipelining import PipelineStage

    from tasks.deep.pipeline_parallel import Pipeline

    busy = _Busy()

    def timed(function: Any, kind: str) -> Any:
        def call(*given: Any, **options: Any) -> Any:
            started = time.perf_counter()
            result = function(*given, **options)
            if kind == "whole_s":
                together()
            took = time.perf_counter() - started
            busy.runs += kind == "whole_s"
            if busy.runs >= WARM_UP and not (kind == "whole_s" and busy.runs == WARM_UP):
                setattr(busy, kind, getattr(busy, kind) + took)
            return result

        return call

    places = {
        "forward_s": (PipelineStage, "forward_one_chunk"),
        "backward_s": (PipelineStage, "backward_one_chunk"),
        "whole_s": (Pipeline, "run"),
    }
    plain = {kind: getattr(owner, name) for kind, (owner, name) in places.items()}
    for kind, (owner, name) in places.items():
        setattr(owner, name, timed(plain[kind], kind))
    try:
        yield busy
    finally:
        for kind, (owner, name) in places.items():
            setattr(owner, name, plain[kind])


def sent_over_loopback() -> int:
    """Return bytes sent over the loopback device since the machine started; 0 where the system does not say."""
    device = Path("/sys/class/net/lo/statistics/tx_bytes")
    return int(device.read_text()) if device.exists() else 0

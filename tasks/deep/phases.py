"""What a rank is doing, for errors: which phase of which step, and whether another rank is gone.

Each phase begins with a point at which a test lets a fault happen (tasks/core/faults.py):

    RAYMILL_KILL_AT=deep-1:backward:3     rank 1 dies before it goes back in step 3
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed

from tasks.core import faults
from tasks.core.errors import RankLost, RaymillError, RunError

GONE = re.compile(
    r"onnection (closed|reset|refused)|roken pipe|imed out|ocket (closed|is closed)|Read error|Write error"
    r"|remote process|communicator was aborted",  # NCCL's
    re.I,
)
NO_MEMORY = re.compile(r"out of memory|can't allocate memory|DefaultCPUAllocator", re.I)
LOWER = {
    "forward": "activations: fewer rows a micro-batch (accumulate), shorter rows, or recompute=true",
    "forward and backward": "activations: more micro_batches, shorter rows, or recompute=true",
    "backward": "gradients and activations: recompute=true, fewer rows a step, or parallel.zero 2 or 3",
    "optimizer step": "optimizer state: parallel.zero of 1 or more, more replicas, or a smaller model",
    "checkpoint": "the whole model on one rank: a smaller model, or more memory for rank 0",
}


@contextmanager
def during(rank: int, step: int, name: str) -> Iterator[None]:
    """Raises RankLost where another rank is gone in this phase, RunError where memory is, naming what takes it."""
    faults.point(f"deep-{rank}", name, step)
    try:
        yield
    except RaymillError:
        raise
    except (RuntimeError, MemoryError, distributed.DistError) as error:
        where, text = f"rank {rank}, step {step}, {name}", _with_causes(error)
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or NO_MEMORY.search(text):
            raise RunError("out of memory", where=where, fix=LOWER.get(name, LOWER["forward"])) from error
        if isinstance(error, distributed.DistNetworkError | distributed.DistStoreError) or GONE.search(text):
            raise RankLost(
                f"another rank is gone ({text.splitlines()[0][:200]})",
                where=where,
                fix="see which one ended first; training goes on from the last checkpoint",
            ) from error
        raise


def _with_causes(error: BaseException | None) -> str:
    """The pipeline wraps errors of its stages: the cause says what happened."""
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__
    return "\n".join(reversed(texts))

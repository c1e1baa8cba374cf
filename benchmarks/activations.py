"""What activation functions cost, by torch's profiler: seconds of forward and backward, and the memory they allocate.

An activation does a few operations a number, so its time is that of reading and writing memory, and what autograd keeps
for the backward pass is memory that a step needs until then. Needs the extra `lab`.

    python -m benchmarks.activations [--numbers 4000000] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

NAMES = ("relu", "leaky_relu", "silu", "gelu", "tanh", "sigmoid", "softplus", "elu")
TRIALS = 10


class Cost(NamedTuple):
    """Milliseconds of CPU, median of the trials, and bytes per number that forward and backward allocate."""

    name: str
    forward_ms: float
    backward_ms: float
    bytes_per_number: float


def costs(numbers: int, threads: int, names: Sequence[str] = NAMES) -> Iterator[Cost]:
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    torch.set_num_threads(threads)
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    allocated: dict[str, int] = {}
    # In turn, so that what the allocator or the machine did in one round is in all functions' numbers.
    for trial, name in product(range(TRIALS + 1), names):
        x = torch.randn(numbers, requires_grad=True)
        gradient = torch.randn(numbers)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            with record_function("forward"):
                y = getattr(torch.nn.functional, name)(x)
            with record_function("backward"):
                y.backward(gradient)
        events = seen.key_averages()
        for event in events:
            if event.key in ("forward", "backward") and trial:  # the first is the warm-up
                times[name, event.key].append(event.cpu_time_total / 1e3)
        allocated[name] = sum(max(0, event.self_cpu_memory_usage) for event in events)
    for name in names:
        forward, backward = (statistics.median(times[name, part]) for part in ("forward", "backward"))
        yield Cost(name, forward, backward, allocated[name] / numbers)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.activations", description="Costs of activations.")
    parser.add_argument("--numbers", type=int, default=4_000_000)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    print("activation   forward ms  backward ms  bytes per number")
    for cost in costs(given.numbers, given.threads):
        print(f"{cost.name:12} {cost.forward_ms:10.2f}  {cost.backward_ms:11.2f}  {cost.bytes_per_number:16.1f}")


if __name__ == "__main__":
    main()

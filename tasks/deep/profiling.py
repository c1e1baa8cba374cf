"""Where the time and the memory of training go: torch's profiler around a piece of it.

    python -m tasks.deep.launch --synthetic 64 --set training.steps=5 --profile trace.json

The trace opens in chrome://tracing or Perfetto; each rank writes its own. The table has the operators that take most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

TOP = 12


@contextmanager
def profiled(trace: Path | None, rank: int, device: str, say: Callable[[str], object]) -> Iterator[None]:
    """Write a trace (TRACE.json, of other ranks TRACE-RANK.json), and say a table of operators by their own time:
    milliseconds, calls, and megabytes that they allocated; of the GPU where there is one, else of the CPU. Nothing
    without a trace."""
    if trace is None:
        yield
        return
    on_gpu = device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, profile_memory=True) as seen:
        yield
    file = trace if rank == 0 else trace.with_name(f"{trace.stem}-{rank}{trace.suffix}")
    seen.export_chrome_trace(str(file))
    if rank == 0:
        say(table(seen.key_averages(), "device" if on_gpu else "cpu"))


def table(events: Iterable[Any], of: str) -> str:
    """Return the operators that take most of "cpu" or "device", in torch's words. Events of kernels are left out: their
    time is in that of the operator that started them, too."""
    lines = [f"{'operator':36} {'ms':>9} {'calls':>7} {'MB':>9}"]
    operators = [event for event in events if event.device_type == DeviceType.CPU]
    for event in sorted(operators, key=lambda event: -getattr(event, f"self_{of}_time_total"))[:TOP]:
        milliseconds = getattr(event, f"self_{of}_time_total") / 1e3
        megabytes = getattr(event, f"self_{of}_memory_usage") / 1e6
        lines.append(f"{event.key[:36]:36} {milliseconds:9.1f} {event.count:7} {megabytes:9.1f}")
    return "\n".join(lines)

"""Where the time and the memory of training go: torch's profiler around a piece of it.

    python -m tasks.deep.launch --synthetic 64 --set training.steps=5 --profile trace.json

The trace opens in chrome://tracing or Perfetto; each rank writes its own. The table has the operators that take most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

TOP = 12


@contextmanager
def profiled(trace: Path | None, rank: int, say: Callable[[str], object]) -> Iterator[None]:
    """Write a trace (TRACE.json, of other ranks TRACE-RANK.json), and say a table of operators by their own time: CPU
    milliseconds, calls, and megabytes that they allocated. Nothing without a trace."""
    if trace is None:
        yield
        return
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        yield
    file = trace if rank == 0 else trace.with_name(f"{trace.stem}-{rank}{trace.suffix}")
    seen.export_chrome_trace(str(file))
    lines = [f"{'operator':36} {'ms':>9} {'calls':>7} {'MB':>9}"]
    by_time = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)
    for event in by_time[:TOP]:
        megabytes = event.self_cpu_memory_usage / 1e6
        lines.append(f"{event.key[:36]:36} {event.self_cpu_time_total / 1e3:9.1f} {event.count:7} {megabytes:9.1f}")
    if rank == 0:
        say("\n".join(lines))

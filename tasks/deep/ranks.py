"""Start ranks on this machine, over loopback, and say which one failed.

    results = run_ranks(work, 4, first, second)       work(first, second) on 4 ranks, in a process group

Processes are forked from a server that has imported torch already, so that a rank starts in milliseconds. They meet
through a file, not a port. A rank that dies by a signal cannot say so, and the others only see a closed connection: the
parent sees which process ended, and asks the others what they were doing.

Several machines: `torchrun`, which does the same for each (docs/deep.md).
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import connection
from typing import Any

from tasks.core.errors import RankLost, RaymillError, RunError

GRACE_S = 10.0  # for the others to notice that a rank is gone
PRELOADED = ["tasks.deep.loop"]


def run_ranks(
    work: Callable[..., Any], world_size: int, *given: Any, timeout_s: float = 300.0, threads: int = 1
) -> list[Any]:
    """Return what `work(*given)` returned on each rank, in their order. threads: of torch, a rank.

    Raises RankLost naming the rank that died or the ranks that did not end in time, or the error that a rank raised.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        pipes, processes = [], []
        for rank in range(world_size):
            here, there = context.Pipe(duplex=False)
            arguments = (work, rank, world_size, f"{folder}/meet", timeout_s, threads, dict(os.environ), there, given)
            process = context.Process(target=_rank, args=arguments, daemon=True)
            process.start()
            there.close()
            pipes.append(here)
            processes.append(process)
        try:
            return _collect(pipes, processes, time.monotonic() + timeout_s)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                process.join()


def _rank(
    work: Callable[..., Any],
    rank: int,
    world_size: int,
    meet: str,
    timeout_s: float,
    threads: int,
    environment: dict[str, str],
    pipe: connection.Connection,
    given: tuple[Any, ...],
) -> None:
    import torch
    from torch import distributed

    def say(kind: str, value: Any) -> None:
        # Not `send`, which would pass tensors as shared memory that is gone with this process.
        pipe.send_bytes(pickle.dumps((kind, value)))

    os.environ.clear()  # those of the server that this process was forked from
    os.environ.update(environment, GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(threads)
    patience = timedelta(seconds=timeout_s)
    try:
        distributed.init_process_group(
            "gloo", init_method=f"file://{meet}", rank=rank, world_size=world_size, timeout=patience
        )
        say("done", work(*given))
        distributed.destroy_process_group()
    except RaymillError as error:
        say("failed", error)
    except Exception:
        say("failed", RunError(traceback.format_exc(), where=f"rank {rank}"))
    finally:
        pipe.close()


def _collect(pipes: list[Any], processes: list[Any], deadline: float) -> list[Any]:
    answers: dict[int, Any] = {}
    errors: dict[int, RaymillError] = {}
    open_pipes = {pipe: rank for rank, pipe in enumerate(pipes)}
    while open_pipes:
        ready: list[Any] = connection.wait(list(open_pipes), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        for pipe in ready:
            rank = open_pipes.pop(pipe)
            try:
                kind, value = pickle.loads(pipe.recv_bytes())
            except EOFError:
                processes[rank].join()
                kind, value = "failed", _died(rank, len(pipes), processes[rank].exitcode)
            (answers if kind == "done" else errors)[rank] = value
            if kind == "failed":
                deadline = min(deadline, time.monotonic() + GRACE_S)
    if errors:
        raise _cause(errors)
    if open_pipes:
        late = ", ".join(str(rank) for rank in sorted(open_pipes.values()))
        raise RankLost(f"ranks {late} of {len(pipes)} did not end in time", where="ranks", fix="a larger timeout")
    return [answers[rank] for rank in range(len(pipes))]


class _Died(RankLost):
    pass


def _died(rank: int, world_size: int, status: int) -> RankLost:
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
    return _Died(f"rank {rank} of {world_size} {how}", where="ranks")


def _cause(errors: dict[int, RaymillError]) -> RaymillError:
    """Choose the error that explains the others: a death, else one that is not about another rank."""
    deaths = [error for error in errors.values() if isinstance(error, _Died)]
    others = [error for error in errors.values() if isinstance(error, RankLost) and not isinstance(error, _Died)]
    causes = [error for error in errors.values() if not isinstance(error, RankLost)]
    if causes and not deaths:
        return causes[0]
    if deaths:
        doing = f", while {others[0].where.partition(', ')[2]}" if others else ""
        first = deaths[0]
        return RankLost(first.what + doing, where=first.where, fix="start again: training goes on from its checkpoint")
    return others[0]

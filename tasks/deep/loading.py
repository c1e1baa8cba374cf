"""Make batches in a thread while others are trained on, in pinned memory for a GPU.

Worth it where a batch takes reading, decoding or indexing that releases the interpreter's lock: torch, Arrow and files
do. For rows that are in memory already it is worth nothing.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from tasks.deep.batches import Batch


def prefetched(batches: Iterable[Batch], depth: int, *, pinned: bool = False) -> Iterator[Batch]:
    """Yield the batches in order, at most `depth` of them made ahead. An error of theirs is raised in its turn; the
    thread ends when this generator is closed."""
    if depth == 0:
        yield from batches
        return
    ready: queue.Queue[Any] = queue.Queue(depth)
    closed = threading.Event()

    def offer(item: Any) -> bool:
        while not closed.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        try:
            for batch in batches:
                if not offer({name: t.pin_memory() for name, t in batch.items()} if pinned else batch):
                    return
            offer(None)
        except BaseException as error:  # raised by who asks for the batch
            offer(error)

    maker = threading.Thread(target=make, name="batches", daemon=True)
    maker.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
        maker.join()

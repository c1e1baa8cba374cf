"""Messages between ranks in threads of one process."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from tasks.parallel.comm import Mailbox, ThreadComm


@contextmanager
def switching_at_every_allocation() -> Iterator[None]:
    """Let other threads run wherever Python may collect garbage, as libraries' callbacks do."""
    earlier, callbacks = gc.get_threshold(), list(gc.callbacks)
    gc.callbacks.append(lambda *_: time.sleep(0.00005))
    gc.set_threshold(1)
    try:
        yield
    finally:
        gc.set_threshold(*earlier)
        gc.callbacks[:] = callbacks


def test_a_first_message_arrives_although_it_is_sent_while_it_is_first_asked_for() -> None:
    sent = np.arange(3)
    with switching_at_every_allocation():
        for _ in range(100):
            mailboxes = [Mailbox(2), Mailbox(2)]
            ranks = [ThreadComm(rank, mailboxes, [], timeout_s=5) for rank in range(2)]
            both = threading.Barrier(2)

            def send(sender: ThreadComm = ranks[1], both: threading.Barrier = both) -> None:
                both.wait()
                sender.send(0, sent)

            thread = threading.Thread(target=send)
            thread.start()
            both.wait()
            assert ranks[0].recv(1).tolist() == [0, 1, 2]
            thread.join()

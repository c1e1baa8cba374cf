"""Some ranks of a group as a group of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tasks.parallel.comm import Array, Comm


class SubComm(Comm):
    """The given ranks of another `Comm`, numbered in the order given."""

    def __init__(self, comm: Comm, ranks: Sequence[int]) -> None:
        super().__init__(ranks.index(comm.rank), len(ranks), comm.timeout_s)
        self.kind = comm.kind
        self._comm, self._ranks = comm, ranks
        self.windows = [comm.windows[rank] for rank in ranks] if comm.windows else ()

    def send(self, to: int, array: Array) -> None:
        with self._speaking():
            self._comm.send(self._ranks[to], array)

    def recv(self, source: int, out: Array | None = None) -> Array:
        with self._speaking():
            return self._comm.recv(self._ranks[source], out)

    def send_recv(self, to: int, array: Array, source: int, out: Array | None = None) -> Array:
        with self._speaking():
            return self._comm.send_recv(self._ranks[to], array, self._ranks[source], out)

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Say this group's phase, not that of the whole group, which ranks outside do not share."""
        before, self._comm.phase = self._comm.phase, self.phase
        yield
        self._comm.phase = before

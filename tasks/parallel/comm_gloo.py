"""Ranks that talk over gloo's sockets, by `torch.distributed`'s process group (the extra `lab`).

A short message carries a header of HEADER_BYTES that says what it is; a long one follows its header in parts. Header,
parts, sends and receives are posted before any is waited for: no round trip, and `send_recv` is truly simultaneous.

Not through `ray.util.collective`, whose backend "gloo" (2.60) is this process group behind blocking calls: two ranks
that send to each other wait for each other's receive, it takes no timeout but torch's 30 minutes, and its send and recv
ignore the group's name. Connections listen on the node's address in Ray, which is loopback for a local session.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from tasks.core.errors import UserError
from tasks.parallel.comm import Array, described, late, matching
from tasks.parallel.comm_actors import ActorComm

HEADER_BYTES, INLINE_BYTES, PART_BYTES = 512, 16 << 10, 4 << 20  # a message costs a wake-up: few and large ones
HEAD, BODY = 0, 1  # tags
Work = tuple[Any, Array]  # what to wait for, and the memory that must not go before


class GlooComm(ActorComm):
    kind = "gloo"
    _listener: socket.socket
    _group: Any = None

    def address(self) -> str | tuple[str, int]:
        from ray.util import get_node_ip_address

        host: str = get_node_ip_address()
        if self.rank > 0:
            return host
        self._listener = socket.create_server((host, 0), backlog=self.world_size)
        return host, self._listener.getsockname()[1]

    def meet(self, members: Sequence[Any], addresses: Sequence[Any]) -> None:
        try:
            from torch import distributed
        except ImportError:
            fix = 'pip install --constraint constraints.txt --editable ".[lab]"'
            raise UserError("gloo needs torch, which is not installed", fix=fix) from None
        patience = timedelta(seconds=self.timeout_s)
        host, port = addresses[0]
        # The store would listen on all interfaces: it gets a socket that listens on ours.
        more = {"master_listen_fd": self._listener.detach()} if self.rank == 0 else {}
        store = distributed.TCPStore(host, port, self.world_size, self.rank == 0, patience, False, **more)
        kind = distributed.ProcessGroupGloo
        options = kind._Options()
        options._timeout = patience
        own = addresses[self.rank]
        options._devices = [kind.create_device(hostname=own if isinstance(own, str) else own[0])]
        self._group = kind(store, self.rank, self.world_size, options)

    def send(self, to: int, array: Array) -> None:
        self._wait(self._post(to, array), to)

    def recv(self, source: int, out: Array | None = None) -> Array:
        return self._take(source, out, self._expect(source, out))

    def send_recv(self, to: int, array: Array, source: int, out: Array | None = None) -> Array:
        expected = self._expect(source, out)
        posted = self._post(to, array)
        received = self._take(source, out, expected)
        self._wait(posted, to)
        return received

    def builtin(self, flat: Array, combine: np.ufunc) -> None:
        """Gloo's own all-reduce, in place: a ring in segments. Nothing says what the other ranks pass.

        Raises UserError for dtypes that torch lacks. Of maxima with NaN, gloo decides which ranks' NaN survive.
        """
        import torch
        from torch import distributed

        try:
            tensor = torch.from_numpy(flat)
        except TypeError as error:
            raise UserError(f"gloo does not reduce {flat.dtype}: {error}", fix="another algorithm") from None
        options = distributed.AllreduceOptions()
        options.reduceOp = distributed.ReduceOp.MAX if combine is np.maximum else distributed.ReduceOp.SUM
        try:
            self._group.allreduce([tensor], options).wait(timedelta(seconds=self.timeout_s))
        except RuntimeError as error:
            left = (self.rank - 1) % self.world_size  # of gloo's ring; the one that is gone may be further left
            raise self.lost(left, _reason(error, self.timeout_s)) from error

    def close(self) -> None:
        if self._group is not None:
            self._group.shutdown()
        self._group = None

    def _post(self, to: int, array: Array) -> list[Work]:
        text = described(self.phase, array).encode()[:HEADER_BYTES].ljust(HEADER_BYTES)
        if array.nbytes <= INLINE_BYTES:
            return [self._posted("send", np.frombuffer(text + array.tobytes(), np.uint8).copy(), to, HEAD)]
        usable = array if array.flags.c_contiguous and array.flags.writeable else array.copy(order="C")
        head = self._posted("send", np.frombuffer(text, np.uint8).copy(), to, HEAD)
        return [head, *(self._posted("send", part, to, BODY) for part in _parts(usable))]

    def _expect(self, source: int, out: Array | None) -> list[Work]:
        head = self._posted("recv", np.empty(HEADER_BYTES + INLINE_BYTES, np.uint8), source, HEAD)
        return [head, *([] if out is None else self._expect_body(source, out))]

    def _expect_body(self, source: int, out: Array) -> list[Work]:
        """Post receives for what `_post` sends after the header. Gloo ends the process if a message is longer than the
        buffer that waits for it; so the last part, which another array's could exceed, is received beside `out`."""
        if out.nbytes <= INLINE_BYTES:
            return []
        parts = _parts(out)
        if len(parts[-1]) < PART_BYTES:
            parts[-1] = np.empty(PART_BYTES, np.uint8)
        return [self._posted("recv", part, source, BODY) for part in parts]

    def _posted(self, way: str, data: Array, other: int, tag: int) -> Work:
        import torch

        try:
            return getattr(self._group, way)([torch.from_numpy(data)], other, tag), data
        except RuntimeError as error:
            raise self.lost(other, _reason(error, self.timeout_s)) from error

    def _take(self, source: int, out: Array | None, expected: list[Work]) -> Array:
        self._wait(expected[:1], source)
        header = expected[0][1]
        theirs = header[:HEADER_BYTES].tobytes().decode(errors="replace").rstrip()
        received = matching(self, source, theirs, out, HEADER_BYTES)
        if received.nbytes <= INLINE_BYTES:
            received.reshape(-1).view(np.uint8)[:] = header[HEADER_BYTES : HEADER_BYTES + received.nbytes]
            return received
        body = expected[1:] or self._expect_body(source, received)
        self._wait(body, source)
        last = _parts(received)[-1]
        if len(last) < PART_BYTES:
            last[:] = body[-1][1][: len(last)]
        return received

    def _wait(self, works: list[Work], other: int) -> None:
        try:
            for work, _ in works:
                work.wait(timedelta(seconds=self.timeout_s))
        except RuntimeError as error:
            raise self.lost(other, _reason(error, self.timeout_s)) from error


def _parts(array: Array) -> list[Array]:
    data = array.reshape(-1).view(np.uint8)
    return [data[start : start + PART_BYTES] for start in range(0, len(data), PART_BYTES)]


def _reason(error: RuntimeError, timeout_s: float) -> str:
    text = str(error)
    return late(timeout_s) if "imed out" in text else f"is gone ({text.split(']', 1)[-1].split('. ')[0].strip()})"

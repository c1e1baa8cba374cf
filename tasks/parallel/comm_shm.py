"""Ranks of one node that talk through shared memory.

The group maps one anonymous file in memory (`memfd_create`): a window for each rank, and for each ordered pair of ranks
a few slots that long messages pass through, one part after the other, while the receiver empties the slots before. What
a message is, and short ones whole, travel as packets over Unix sockets: they put a waiting rank to sleep, order memory,
and tell at once of a peer that has ended.

Nothing of it has a name that could stay behind: memory and sockets go with the last process that holds them, killed or
not. (Files in /dev/shm would stay, and Docker gives /dev/shm 64 MB.) Linux only. The sockets' names are abstract, which
any user of the machine could connect to, so each side asks the kernel for the other's user.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from tasks.core.errors import RunError, UserError
from tasks.parallel.comm import WINDOW_BYTES, Array, described, late, matching
from tasks.parallel.comm_actors import ActorComm

SLOT_BYTES, SLOTS = 256 << 10, 2
INLINE_BYTES = 16 << 10  # a message of at most this many bytes travels in its packet
PACKET_BYTES = INLINE_BYTES + 4096
MAIL, RECEIPTS = b"m", b"r"  # the two sockets between two ranks: packets, and a byte for each emptied slot
ONE = b"\x01"


class SharedMemoryComm(ActorComm):
    kind = "shared memory"
    _file: int | None = None

    def address(self) -> tuple[str, bytes, str]:
        """Return the node, this rank's socket and the path of the memory, which is rank 0's."""
        from ray import get_runtime_context

        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.settimeout(self.timeout_s)
        self._listener.bind("")  # the kernel chooses an abstract name
        self._listener.listen(2 * self.world_size)
        path = ""
        if self.rank == 0:
            self._file = os.memfd_create("raymill-ranks", os.MFD_CLOEXEC)
            os.ftruncate(self._file, self._bytes())  # takes no memory until it is written
            path = f"/proc/{os.getpid()}/fd/{self._file}"
        return get_runtime_context().get_node_id(), self._listener.getsockname(), path

    def meet(self, members: Sequence[Any], addresses: Sequence[tuple[str, bytes, str]]) -> None:
        if len({node for node, _, _ in addresses}) > 1:
            raise UserError("ranks on several nodes share no memory", fix="gloo, or two levels (allreduce_levels.py)")
        self._map(addresses[0][2])
        self._sockets: dict[tuple[bytes, int], socket.socket] = {}
        for other in range(self.rank):
            for channel in (MAIL, RECEIPTS):
                peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                peer.connect(addresses[other][1])
                self._trusted(peer).send(channel + str(self.rank).encode())
                self._sockets[channel, other] = peer
        while len(self._sockets) < 2 * (self.world_size - 1):
            try:
                peer = self._trusted(self._listener.accept()[0])
            except TimeoutError:
                there = {other for _, other in self._sockets}
                missing = next(r for r in range(self.rank + 1, self.world_size) if r not in there)
                raise self.lost(missing, late(self.timeout_s)) from None
            hello = peer.recv(PACKET_BYTES)
            self._sockets[hello[:1], int(hello[1:])] = peer
        self._listener.close()
        self._unread = [0] * self.world_size  # slots that each receiver has not yet emptied
        self._written, self._read = [0] * self.world_size, [0] * self.world_size  # slots so far, by receiver and sender

    def send(self, to: int, array: Array) -> None:
        for _ in self._sending(to, array):
            pass

    def recv(self, source: int, out: Array | None = None) -> Array:
        received = self._begin(source, out)
        for _ in received[1]:
            pass
        return received[0]

    def send_recv(self, to: int, array: Array, source: int, out: Array | None = None) -> Array:
        sending = self._sending(to, array)
        next(sending, None)  # the packet, and the first slot
        received, receiving = self._begin(source, out)
        for _ in zip_longest(receiving, sending):  # a slot each in turn, or both sides would wait for an empty one
            pass
        return received

    def close(self) -> None:
        for peer in getattr(self, "_sockets", {}).values():
            peer.close()
        self._listener.close()
        if self._file is not None:
            os.close(self._file)
        self._file, self._sockets, self.windows = None, {}, ()

    def _sending(self, to: int, array: Array) -> Iterator[None]:
        """Send the packet, then the rest slot by slot."""
        head = described(self.phase, array).encode() + b"\n"
        if array.nbytes <= INLINE_BYTES:
            self._put(MAIL, to, head + array.tobytes())
            return
        self._put(MAIL, to, head)
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for start in range(0, len(data), SLOT_BYTES):
            part = data[start : start + SLOT_BYTES]
            if self._unread[to] == SLOTS:
                self._get(RECEIPTS, to)
                self._unread[to] -= 1
            self._slot(self.rank, to, self._written[to])[: len(part)] = part
            self._written[to] += 1
            self._unread[to] += 1
            self._put(MAIL, to, ONE)
            yield

    def _begin(self, source: int, out: Array | None) -> tuple[Array, Iterator[None]]:
        """Receive the packet; return the array and what fills it slot by slot."""
        head, _, inline = self._get(MAIL, source).partition(b"\n")
        received = matching(self, source, head.decode(), out)
        data = received.reshape(-1).view(np.uint8)
        if len(data) <= INLINE_BYTES:
            data[:] = np.frombuffer(inline, np.uint8)
            return received, iter(())
        return received, self._filling(source, data)

    def _filling(self, source: int, data: Array) -> Iterator[None]:
        for start in range(0, len(data), SLOT_BYTES):
            part = data[start : start + SLOT_BYTES]
            self._get(MAIL, source)
            part[:] = self._slot(source, self.rank, self._read[source])[: len(part)]
            self._read[source] += 1
            self._put(RECEIPTS, source, ONE)
            yield

    def _put(self, channel: bytes, to: int, packet: bytes) -> None:
        try:
            self._sockets[channel, to].send(packet)
        except TimeoutError:
            raise self.lost(to, late(self.timeout_s)) from None
        except OSError as error:
            raise self.lost(to, "has ended") from error

    def _get(self, channel: bytes, source: int) -> bytes:
        try:
            packet = self._sockets[channel, source].recv(PACKET_BYTES)
        except TimeoutError:
            raise self.lost(source, late(self.timeout_s)) from None
        except OSError as error:
            raise self.lost(source, "has ended") from error
        if not packet:
            raise self.lost(source, "has ended")
        return packet

    def _bytes(self) -> int:
        return self.world_size * (WINDOW_BYTES + self.world_size * SLOTS * SLOT_BYTES)

    def _map(self, path: str) -> None:
        file = os.open(path, os.O_RDWR)
        shared = np.frombuffer(mmap.mmap(file, self._bytes()), np.uint8)
        os.close(file)
        windows, slots = np.split(shared, [self.world_size * WINDOW_BYTES])
        self.windows = list(windows.reshape(self.world_size, WINDOW_BYTES))
        self._slots = slots.reshape(self.world_size, self.world_size, SLOTS, SLOT_BYTES)

    def _slot(self, source: int, to: int, number: int) -> Array:
        slot: Array = self._slots[source, to, number % SLOTS]
        return slot

    def _trusted(self, peer: socket.socket) -> socket.socket:
        peer.settimeout(self.timeout_s)
        _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if user != os.getuid():
            raise RunError(f"user {user} connected to rank {self.rank}'s socket", where="shared memory")
        return peer

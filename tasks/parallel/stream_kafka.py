"""One partition of a topic of Kafka, or of a broker that speaks its protocol, as a `stream_log.Log`.

    pip install --constraint constraints.txt --editable ".[kafka]"

    log = KafkaLog("127.0.0.1:9092", "reviews")
    source = LogSource(log, "score", decode)        # for tasks.parallel.stream.run

Groups commit their offsets at the broker, so a stream that was killed goes on where it was, on any machine. Between the
work and the commit a kill makes records be read again: at least once, so results carry offsets. What was read and not
yet committed is held in memory: at most what the stream's limits let wait, and what its workers have. Of records that
are dropped only the times are.

A log's offsets are consecutive. Those of a topic that is compacted or written in transactions are not: RunError.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from tasks.core.errors import InputError, RunError, SettingsError
from tasks.parallel.stream_arrivals import Times
from tasks.parallel.stream_log import Record, check_group

LOG = logging.getLogger("raymill.kafka")
TIMEOUT_S = 10.0
FETCH_WAIT_MS = 50  # a broker answers after this long even if there is little to read
MOST = 10_000  # records asked for at once; the client takes no more than a million


class KafkaLog:
    """servers: HOST:PORT, several by commas. client: more settings of librdkafka, such as `security.protocol`."""

    def __init__(
        self, servers: str, topic: str, partition: int = 0, *, timeout_s: float = TIMEOUT_S, client: Any = None
    ) -> None:
        if find_spec("confluent_kafka") is None:
            raise SettingsError(
                "the client for Kafka is not installed",
                where="tasks.parallel.stream_kafka",
                fix='pip install --constraint constraints.txt --editable ".[kafka]"',
            )
        self._kafka: Any = import_module("confluent_kafka")
        self._client = {"bootstrap.servers": servers, "socket.timeout.ms": int(1000 * timeout_s), **(client or {})}
        self._topic, self._partition, self._timeout_s = topic, partition, timeout_s
        self.where = f"{servers}, topic {topic}, partition {partition}"
        self._reader = self._consumer("raymill-reader")
        self._next: int | None = None  # the offset that the reader gives next
        self._held: dict[int, Record] = {}
        self._groups: dict[str, Any] = {}
        self._writer: Any = None

    def close(self) -> None:
        for consumer in (self._reader, *self._groups.values()):
            consumer.close()

    def append(self, values: Sequence[bytes]) -> int:
        """Append records, acknowledged by all replicas; returns the offset of the first. Others may write between."""
        if self._writer is None:
            config = {**self._client, "acks": "all", "enable.idempotence": True}
            config["delivery.timeout.ms"] = int(1000 * self._timeout_s)
            self._writer = self._kafka.Producer(config, logger=LOG)
        delivered: list[tuple[Any, int]] = []
        for value in values:
            self._writer.produce(
                self._topic, value, partition=self._partition,
                on_delivery=lambda error, message: delivered.append((error, message.offset())),
            )  # fmt: skip
        self._writer.flush(2 * self._timeout_s)
        failed = [error for error, _ in delivered if error is not None]
        if failed or len(delivered) < len(values):
            raise self._fault(failed[0] if failed else "the broker did not acknowledge in time", "written")
        return min((offset for _, offset in delivered), default=self.end())

    def end(self) -> int:
        return self._ends()[1]

    def _ends(self) -> tuple[int, int]:
        """Return the first offset that is still there, and the one that the next record will have."""
        try:
            ends = self._reader.get_watermark_offsets(self._at(), timeout=self._timeout_s, cached=False)
        except self._kafka.KafkaException as error:
            raise self._fault(error.args[0], "asked for its end") from error
        if ends is None:
            raise self._fault("it did not answer in time", "asked for its end")
        return int(ends[0]), int(ends[1])

    def read(self, offset: int, most: int) -> list[Record]:
        end = self.end()
        if offset < 0 or offset > end:
            raise InputError(f"offset {offset} of a log that ends at {end}", where=self.where)
        wanted = range(offset, min(offset + most, end))
        self._fetch(wanted)
        return [self._held[at] for at in wanted]

    def times(self, first: int, end: int, *, to_read: bool = True) -> Times:
        """Return when records were appended, by their timestamps."""
        times = np.empty(end - first)
        for piece in (range(at, min(at + MOST, end)) for at in range(first, end, MOST)):
            self._fetch(piece)
            times[piece.start - first : piece.stop - first] = [self._held[at].time for at in piece]
            for at in piece if not to_read else ():
                del self._held[at]
        return times

    def committed(self, group: str) -> int:
        """Return the offset at which a group goes on. A new group begins with what is still there."""
        try:
            (found,) = self._group(group).committed([self._at()], timeout=self._timeout_s)
        except self._kafka.KafkaException as error:
            raise self._fault(error.args[0], "asked for an offset") from error
        return int(found.offset) if found.offset >= 0 else self._ends()[0]

    def commit(self, group: str, offset: int) -> None:
        end = self.end()
        if not 0 <= offset <= end:
            raise InputError(f"offset {offset} of a log that ends at {end}", where=f"group {group}")
        try:
            self._group(group).commit(offsets=[self._at(offset)], asynchronous=False)
        except self._kafka.KafkaException as error:
            raise self._fault(error.args[0], "told an offset") from error
        for at in [at for at in self._held if at < offset]:
            del self._held[at]

    def _fetch(self, wanted: range) -> None:
        """Hold these records, and those of them that are held already. Raises RunError where one is not there."""
        missing = [at for at in wanted if at not in self._held]
        if not missing:
            return
        if self._next != missing[0]:
            self._reader.assign([self._at(missing[0])])
            self._next = missing[0]
        while self._next <= missing[-1]:
            messages = self._reader.consume(min(missing[-1] + 1 - self._next, MOST), timeout=self._timeout_s)
            if not messages:
                raise self._fault("it did not answer in time", "read")
            for message in messages:
                if message.error() is not None:
                    raise self._fault(message.error(), "read")
                if message.offset() != self._next:
                    raise RunError(
                        f"record {self._next} is not there: the next one is {message.offset()}",
                        where=self.where,
                        fix="use a topic that is neither compacted nor written in transactions",
                    )
                self._held[self._next] = Record(self._next, message.timestamp()[1] / 1000, message.value() or b"")
                self._next += 1

    def _at(self, offset: int | None = None) -> Any:
        place = (self._topic, self._partition)
        return self._kafka.TopicPartition(*place) if offset is None else self._kafka.TopicPartition(*place, offset)

    def _group(self, group: str) -> Any:
        check_group(group)
        if group not in self._groups:
            self._groups[group] = self._consumer(group)
        return self._groups[group]

    def _consumer(self, group: str) -> Any:
        config = {**self._client, "group.id": group, "enable.auto.commit": False, "auto.offset.reset": "error"}
        config |= {"fetch.wait.max.ms": FETCH_WAIT_MS, "allow.auto.create.topics": False}
        return self._kafka.Consumer(config, logger=LOG)

    def _fault(self, error: Any, what: str) -> RunError:
        reason = error.str() if hasattr(error, "str") else str(error)
        return RunError(
            f"the broker's log cannot be {what}: {reason}",
            where=self.where,
            fix="check that the broker is up, that the topic is there and that its retention keeps what is not read",
        )

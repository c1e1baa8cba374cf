"""A Kafka broker as a log: the test broker of librdkafka, which speaks Kafka's protocol on loopback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pytest

from tasks.core.errors import InputError, RunError, SettingsError
from tasks.core.sections import PROJECT
from tasks.parallel import stream, stream_kafka
from tasks.parallel.stream import Limits
from tasks.parallel.stream_kafka import KafkaLog
from tasks.parallel.stream_log import LogSource
from tests.support.virtual_crew import VirtualCrew

confluent_kafka = pytest.importorskip("confluent_kafka", reason="the extra `kafka` is not installed")


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """The address of a broker, which lives as long as the client that has it."""
    host = confluent_kafka.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "nobody", "log_level": 0})
    (one,) = host.list_topics(timeout=10).brokers.values()
    assert one.host == "127.0.0.1"
    yield f"{one.host}:{one.port}"
    host.flush(1)


@pytest.fixture
def log(broker: str, request: pytest.FixtureRequest) -> Iterator[KafkaLog]:
    opened = KafkaLog(broker, request.node.name, timeout_s=20)
    yield opened
    opened.close()


def test_records_are_numbered_and_each_group_goes_on_where_it_was(log: KafkaLog, broker: str) -> None:
    assert log.append([b"a", b"", b"c" * 5000]) == 0
    assert log.append([b"d"]) == 3
    assert log.append([]) == log.end() == 4
    assert [(record.offset, record.value) for record in log.read(1, 2)] == [(1, b""), (2, b"c" * 5000)]
    assert [record.value for record in log.read(0, 100)] == [b"a", b"", b"c" * 5000, b"d"]
    assert log.read(4, 5) == []
    assert log.times(0, 4).tolist() == [record.time for record in log.read(0, 4)]
    assert log.committed("score") == 0
    log.commit("score", 3)
    log.commit("watch", 1)
    again = KafkaLog(broker, "test_records_are_numbered_and_each_group_goes_on_where_it_was", timeout_s=20)
    assert (again.committed("score"), again.committed("watch"), again.committed("new")) == (3, 1, 0)
    again.close()
    for offset in (-1, 5):
        with pytest.raises(InputError, match="of a log that ends at 4"):
            log.commit("score", offset)
        with pytest.raises(InputError, match="of a log that ends at 4"):
            log.read(offset, 1)
    with pytest.raises(InputError, match="is no name of a group"):
        log.commit("../score", 1)


def test_what_is_held_is_dropped_with_the_commit_and_can_be_read_again(log: KafkaLog) -> None:
    log.append([str(i).encode() for i in range(50)])
    log.read(0, 50)
    log.commit("score", 40)
    assert sorted(log._held) == list(range(40, 50))
    assert [record.value for record in log.read(38, 4)] == [b"38", b"39", b"40", b"41"]


def test_of_dropped_records_only_the_times_are_held(log: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_kafka, "MOST", 8)
    log.append([str(i).encode() for i in range(50)])
    held = log.times(0, 10).tolist()
    source = LogSource(log, "score", decoded)
    assert len(source.drop(10, 50)) == 40
    assert sorted(log._held) == list(range(10))
    assert log.times(0, 50, to_read=False)[:10].tolist() == held
    assert [record.value for record in log.read(48, 2)] == [b"48", b"49"]


PRODUCER = """
import sys
from tasks.parallel.stream_kafka import KafkaLog
print(KafkaLog(sys.argv[1], sys.argv[2], timeout_s=20).append([str(i).encode() for i in range(100)]))
"""


def test_a_stream_over_what_another_process_wrote_goes_on_where_its_group_left_off(log: KafkaLog, broker: str) -> None:
    topic = "test_a_stream_over_what_another_process_wrote_goes_on_where_its_group_left_off"
    written = subprocess.run(
        [sys.executable, "-c", PRODUCER, broker, topic], cwd=PROJECT, capture_output=True, text=True, timeout=120
    )
    assert written.stdout == "0\n", written.stderr
    seen: list[int] = []

    def answer(_: int, batch: stream.Batch) -> stream.Scored:
        seen.extend(pa.ipc.open_stream(batch.rows).read_all()["row"].to_pylist())
        return stream.Scored()

    for until in (60, 100):
        source = LogSource(log, "score", decoded, until=until)
        report = stream.run(source, VirtualCrew(2, lambda _: 0.1, answer), Limits(1000, 7, "wait", deadline_s=5.0))
        assert report.scored == until - source.first
    assert sorted(seen) == list(range(100))
    assert log.committed("score") == 100
    assert log._held == {}


def decoded(records: Sequence[bytes]) -> pa.Table:
    return pa.table({"row": [int(record) for record in records]})


def test_a_gap_and_a_broker_that_is_not_there_are_told(log: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append([b"a", b"b", b"c"])
    log.read(0, 1)
    log._next = 0  # as if record 0 had been compacted away
    log._held.clear()
    with pytest.raises(RunError, match="record 0 is not there: the next one is 1"):
        log.read(0, 2)
    nobody = KafkaLog("127.0.0.1:9", "reviews", timeout_s=0.5)
    with pytest.raises(RunError, match=r"127\.0\.0\.1:9, topic reviews, partition 0: the broker's log cannot be asked"):
        nobody.end()
    with pytest.raises(RunError, match="cannot be written"):
        nobody.append([b"x"])
    nobody.close()
    monkeypatch.setattr(stream_kafka, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"--editable \"\.\[kafka\]\""):
        KafkaLog("127.0.0.1:9", "reviews")

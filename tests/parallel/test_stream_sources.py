"""A folder that grows and a log: each file and each record once, through kills and restarts."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.digests import file_sha256
from tasks.core.errors import InputError, RunError
from tasks.core.sections import PROJECT
from tasks.parallel import stream, stream_folder
from tasks.parallel.stream import Limits
from tasks.parallel.stream_folder import Folder
from tasks.parallel.stream_log import FileLog, LogSource
from tests.support.virtual_crew import VirtualCrew


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path


def looked(folder: Folder) -> list[str]:
    """The names of new files, after two looks, all taken note of."""
    folder.look()
    found = folder.look()
    for file in found:
        folder.take_note(file)
    return [file.path.name for file in found]


def opened(place: Path) -> Folder:
    return Folder(place / "in", place / "ledger.jsonl")


def write(place: Path, name: str, rows: int) -> Path:
    pq.write_table(pa.table({"row": range(rows)}), place / "in" / name)
    return place / "in" / name


def test_each_new_file_is_given_until_it_is_taken_note_of_and_never_again(place: Path) -> None:
    folder = opened(place)
    first = write(place, "a.parquet", 3)
    assert folder.look() == []  # it may still grow
    (found,) = folder.look()
    assert (found.path, folder.look()) == (first, [found])
    folder.take_note(found)
    assert folder.look() == []
    write(place, "b.parquet", 4)
    assert looked(folder) == ["b.parquet"]
    assert looked(opened(place)) == []  # a restart


def test_no_more_files_are_read_than_asked_for_and_a_taken_one_is_not_read_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(stream_folder, "file_sha256", lambda path: read.append(path.name) or file_sha256(path))
    folder = opened(place)
    for name in ("a", "b", "c"):
        write(place, f"{name}.parquet", ord(name))
    folder.look()
    found = folder.look(most=2)
    assert [file.path.name for file in found] == read == ["a.parquet", "b.parquet"]
    for file in found:
        folder.take_note(file)
    assert [file.path.name for file in folder.look(most=2)] == ["c.parquet"]
    assert read == ["a.parquet", "b.parquet", "c.parquet"]


def test_files_are_known_by_content_and_not_by_name(place: Path) -> None:
    first = write(place, "a.parquet", 3)
    assert looked(opened(place)) == ["a.parquet"]
    shutil.copy(first, place / "in" / "copy.parquet")
    first.rename(place / "in" / "z.parquet")
    assert looked(opened(place)) == []
    write(place, "z.parquet", 5)  # other content under a known name
    write(place, "y.parquet", 5)  # twice
    assert looked(opened(place)) == ["y.parquet"]


def test_a_file_is_given_only_when_it_is_whole(place: Path) -> None:
    folder = opened(place)
    whole = write(place, "a.parquet", 100).read_bytes()
    target = place / "in" / "a.parquet"
    target.write_bytes(whole[:-10])
    assert looked(folder) == []  # no footer
    target.write_bytes(whole)
    assert looked(folder) == ["a.parquet"]
    lines = place / "in" / "reviews.jsonl"
    for text in ("", "{}\n", "{}\n{}\n"):
        lines.write_text(text)
        assert folder.look() == []  # it grew since the last look
    assert looked(folder) == ["reviews.jsonl"]
    for name in (".hidden.csv", "later.csv.part", "x.draft"):
        (place / "in" / name).write_text("stars\n")
    assert looked(folder) == []


def test_a_ledger_that_a_kill_cut_short_gives_that_file_again(place: Path) -> None:
    write(place, "a.parquet", 1)
    write(place, "b.parquet", 2)
    assert looked(opened(place)) == ["a.parquet", "b.parquet"]
    ledger = place / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-5])
    folder = opened(place)
    assert looked(folder) == ["b.parquet"]
    assert [json.loads(line)["name"].rpartition("/")[2] for line in ledger.read_text().splitlines()] == [
        "a.parquet",
        "b.parquet",
    ]
    ledger.write_text("not ours\n")
    with pytest.raises(InputError, match=r"ledger.jsonl: line 1 is not one of ours"):
        opened(place)
    with pytest.raises(InputError, match="no such folder"):
        Folder(place / "nowhere", ledger)


def values(log: FileLog, offset: int = 0) -> list[bytes]:
    return [record.value for record in log.read(offset, 1000)]


def test_a_log_numbers_its_records_and_remembers_where_each_group_is(tmp_path: Path) -> None:
    reader = FileLog(tmp_path)
    assert (reader.end(), reader.read(0, 10), reader.committed("score")) == (0, [], 0)
    with FileLog(tmp_path, writing=True, now=lambda: 12.5) as log:
        assert log.append([b"a", b"", b"c" * 5000]) == 0
        assert log.append([b"d"]) == 3
        with pytest.raises(RunError, match="another process appends"):
            FileLog(tmp_path, writing=True)
    assert values(reader) == [b"a", b"", b"c" * 5000, b"d"]
    assert [(record.offset, record.time) for record in reader.read(1, 2)] == [(1, 12.5), (2, 12.5)]
    reader.commit("score", 3)
    reader.commit("watch", 1)
    again = FileLog(tmp_path)
    assert (again.committed("score"), again.committed("watch"), again.end()) == (3, 1, 4)
    for offset in (-1, 5):
        with pytest.raises(InputError, match="of a log that ends at 4"):
            again.commit("score", offset)
        with pytest.raises(InputError, match="of a log that ends at 4"):
            again.read(offset, 1)
    with pytest.raises(InputError, match="is no name of a group"):
        again.commit("../score", 1)
    with pytest.raises(RunError, match="opened to be read"):
        again.append([b"x"])


def test_a_record_that_was_cut_short_is_not_seen_and_cut_off_by_the_next_writer(tmp_path: Path) -> None:
    with FileLog(tmp_path, writing=True) as log:
        log.append([b"one", b"two", b"three"])
    file = tmp_path / "records.log"
    whole = file.read_bytes()
    for kept in range(len(whole) - 20, len(whole)):
        file.write_bytes(whole[:kept])
        assert values(FileLog(tmp_path)) == [b"one", b"two"]
    file.write_bytes(whole[:-1] + b"?")  # a block that never reached the disk
    assert values(FileLog(tmp_path)) == [b"one", b"two"]
    with FileLog(tmp_path, writing=True) as log:
        assert log.append([b"three again"]) == 2
    assert values(FileLog(tmp_path)) == [b"one", b"two", b"three again"]


class Full:
    """A file on a disk with little room, which takes so many bytes at once."""

    def __init__(self, file: IO[bytes], room: int, at_once: int) -> None:
        self.file, self.room, self.at_once = file, room, at_once
        self.fileno, self.truncate, self.close = file.fileno, file.truncate, file.close

    def write(self, data: bytes) -> int:
        if self.room == 0:
            raise OSError(28, "No space left on device")
        count = self.file.write(data[: min(self.room, self.at_once)])
        self.room -= count
        return count


def test_a_write_that_takes_less_than_given_loses_no_record(tmp_path: Path) -> None:
    with FileLog(tmp_path, writing=True) as log:
        assert log._writer is not None
        log._writer = Full(log._writer, 1000, 300)  # type: ignore[assignment]
        assert log.append([b"a" * 400, b"b" * 400]) == 0
        with pytest.raises(OSError, match="No space"):
            log.append([b"c" * 400])
        log._writer.room = 1000  # type: ignore[union-attr]
        assert log.append([b"d" * 400]) == 2
    assert [value[:1] for value in values(FileLog(tmp_path))] == [b"a", b"b", b"d"]


def test_a_record_for_which_the_disk_has_no_room_is_refused_and_hides_no_later_one(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with FileLog(tmp_path, writing=True) as log:
        log.append([b"one"])
        size = (tmp_path / "records.log").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 30, before[1]))
        try:
            with pytest.raises(OSError, match=r"No space left|File too large"):
                log.append([b"two", b"too long for what is left"])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert log.append([b"three"]) == 1
    assert values(FileLog(tmp_path)) == [b"one", b"three"]


CONSUMER = """
import sys
from pathlib import Path
from tasks.parallel.stream_log import FileLog
log, out = FileLog(Path(sys.argv[1]), writing=True), Path(sys.argv[2])
if log.end() < 3:
    log.append([b"one", b"two", b"three"])
for record in log.read(log.committed("score"), 10):
    (out / str(record.offset)).write_bytes(record.value)
    log.commit("score", record.offset + 1)
"""


@pytest.mark.fault
@pytest.mark.parametrize("at", ["log:written", "log:commit"])
def test_a_kill_between_append_and_commit_loses_no_record(tmp_path: Path, at: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-c", CONSUMER, str(tmp_path / "log"), str(out)]
    killed = subprocess.run(command, cwd=PROJECT, env={**os.environ, "RAYMILL_KILL_AT": at}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert FileLog(tmp_path / "log").end() == 3
    assert FileLog(tmp_path / "log").committed("score") == 0
    subprocess.run(command, cwd=PROJECT, check=True)
    assert [(out / str(offset)).read_bytes() for offset in range(3)] == [b"one", b"two", b"three"]
    assert FileLog(tmp_path / "log").committed("score") == 3


def decoded(records: Sequence[bytes]) -> pa.Table:
    return pa.table({"row": [int(record) for record in records]})


def test_a_stream_over_a_log_goes_on_where_its_group_left_off(tmp_path: Path) -> None:
    with FileLog(tmp_path, writing=True, now=lambda: 0.0) as log:
        log.append([str(i).encode() for i in range(100)])
    seen: list[int] = []

    def answer(_: int, batch: stream.Batch) -> stream.Scored:
        seen.extend(pa.ipc.open_stream(batch.rows).read_all()["row"].to_pylist())
        return stream.Scored()

    for until in (60, 100):
        source = LogSource(FileLog(tmp_path), "score", decoded, until=until)
        crew = VirtualCrew(2, lambda _: 0.1, answer)
        report = stream.run(source, crew, Limits(1000, 7, "wait", deadline_s=5.0))
        assert FileLog(tmp_path).committed("score") == until
    assert report.scored == 40
    assert seen == list(range(100))


def test_a_group_that_is_further_than_the_log_is_refused(tmp_path: Path) -> None:
    with FileLog(tmp_path, writing=True) as log:
        log.append([b"1", b"2"])
    log.commit("score", 2)
    (tmp_path / "records.log").unlink()
    with pytest.raises(RunError, match="goes on at offset 2, and the log ends at 0"):
        LogSource(FileLog(tmp_path), "score", decoded)


def test_a_file_that_may_not_be_read_hinders_no_other(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        write(place, f"{name}.parquet", ord(name))
    may_read, read_metadata = {"b.parquet"}, pq.read_metadata

    def opened_by_us(path: Path) -> object:
        if path.name not in may_read:
            raise PermissionError(13, "Permission denied")
        return read_metadata(path)

    monkeypatch.setattr(stream_folder.pq, "read_metadata", opened_by_us)
    folder = opened(place)
    assert looked(folder) == ["b.parquet"]
    assert {path.name for path in folder.unreadable} == {"a.parquet"}
    may_read.add("a.parquet")
    assert looked(folder) == ["a.parquet"]
    assert folder.unreadable == set()

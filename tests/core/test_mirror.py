"""A store with a bucket for its home: what one machine commits another finds, the first commit stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.core.snapshot_files import part_name
from tasks.core.snapshots import Snapshot
from tasks.core.storage import bucket as remote
from tasks.core.storage.bucket import Bucket
from tasks.core.storage.mirror import MirroredStore
from tasks.core.storage.store import SnapshotStore, damaged_files
from tests.support.s3_server import S3Server, digests, forget_clients, names
from tests.support.toy_snapshots import ABOUT, COMMITTED, MODEL, TABLE, assert_whole, fill, interrupt_at, made

Machine = Callable[[str], MirroredStore]


def test_what_one_machine_commits_another_finds(machine: Machine, bucket: Bucket) -> None:
    here = made(machine("a"))
    assert names(bucket) == COMMITTED
    assert machine("b").holds("toy", "k")
    there = machine("b").find("toy", "k")
    assert_whole(there)
    assert there is not None
    assert there.manifest == here.manifest
    assert bucket.get("snapshots/toy/k/manifest.json") == (Path(here.folder) / "manifest.json").read_bytes()
    assert (Path(there.folder) / "manifest.json").read_bytes() == (Path(here.folder) / "manifest.json").read_bytes()


def test_a_snapshot_of_the_bucket_is_looked_up_without_fetching_it(machine: Machine, bucket: Bucket) -> None:
    here, other = made(machine("a")), made(machine("a"), stage="other")
    store = machine("b")
    assert store.look("toy", "k") == here.manifest
    assert store.look("toy", "unknown") is None
    assert store.manifests("toy") == {"k": here.manifest}
    assert store.manifests("other") == {"k": other.manifest}
    assert not store.root.exists()


def test_a_key_that_nobody_committed_is_found_nowhere(machine: Machine) -> None:
    made(machine("a"))
    assert machine("b").find("toy", "other") is None
    assert not machine("b").holds("toy", "other")


def test_of_two_machines_the_first_commit_stands_and_the_other_takes_it(machine: Machine, bucket: Bucket) -> None:
    a, b = machine("a"), machine("b")
    first, second = fill(a.open_attempt("toy", "k")), b.open_attempt("toy", "k")
    fill(second, TABLE.slice(0, 2))
    won = a.commit(first, **ABOUT)
    taken = b.commit(second, **ABOUT)
    assert taken.digest == won.digest
    assert_whole(taken)
    assert names(bucket) == COMMITTED
    assert len(bucket.objects("")) == len(COMMITTED)  # of the attempt that lost nothing is left


def test_a_commit_whose_answer_got_lost_is_still_ours(
    machine: Machine, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Bucket.put_if_absent

    def created_but_not_heard(self: Bucket, name: str, data: bytes) -> bool:
        create(self, name, data)
        return create(self, name, data)

    monkeypatch.setattr(Bucket, "put_if_absent", created_but_not_heard)
    assert_whole(made(machine("a")))
    assert len(bucket.objects("")) == len(COMMITTED)


def test_files_without_a_manifest_are_believed_by_nobody(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(monkeypatch, "before-remote-manifest")
    with pytest.raises(KeyboardInterrupt):
        made(machine("a"))
    assert machine("b").find("toy", "k") is None


@pytest.mark.parametrize("where", [("sent", 0), ("sent", 1), ("before-remote-manifest",), ("after-remote-manifest",)])
def test_a_commit_that_broke_off_is_finished_by_who_looks_for_it_and_nothing_is_sent_twice(
    machine: Machine, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, where: tuple[Any, ...]
) -> None:
    store = machine("a")
    writer = fill(store.open_attempt("toy", "k"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, *where)
        with pytest.raises(KeyboardInterrupt):
            store.commit(writer, **ABOUT)
        store.discard(writer)  # what the runner does whatever was raised
    assert list(store) == []  # published locally only after the bucket has it
    sent = {o.name for o in bucket.objects("") if not o.name.endswith("manifest.json")}
    assert sent

    upload, again = Bucket.upload, []

    def watched(self: Bucket, name: str, path: Path, sha256: str) -> None:
        again.append(name)
        upload(self, name, path, sha256)

    monkeypatch.setattr(Bucket, "upload", watched)
    monkeypatch.setattr(
        Bucket, "chunks", lambda _self, name: _refuse(name) if "attempt" in name else _chunks(bucket, name)
    )
    finished = machine("a").find("toy", "k")
    assert_whole(finished)
    assert finished is not None
    assert finished.manifest.attempt == writer.attempt
    assert not sent & set(again)
    assert names(bucket) == COMMITTED


_chunks = Bucket.chunks


def _refuse(name: str) -> Iterator[bytes]:
    raise AssertionError(f"{name} is here and was fetched")


def test_a_sealed_attempt_that_changed_on_disk_is_not_sent(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    store = machine("a")
    writer = fill(store.open_attempt("toy", "k"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, "sent", 0)
        with pytest.raises(KeyboardInterrupt):
            store.commit(writer, **ABOUT)
    store.discard(writer)
    (writer.root / MODEL).write_bytes(b"tr33s")
    assert store.find("toy", "k") is None
    assert_whole(made(store))


def test_what_was_committed_before_the_bucket_was_named_is_sent_when_it_is_used(
    machine: Machine, tmp_path: Path
) -> None:
    made(SnapshotStore(tmp_path / "a" / "snapshots"))
    assert machine("b").find("toy", "k") is None
    assert_whole(machine("a").find("toy", "k"))
    assert_whole(machine("b").find("toy", "k"))


def test_two_snapshots_of_one_key_both_stay_where_they_are(
    machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = made(SnapshotStore(tmp_path / "a" / "snapshots"))
    theirs = made(machine("b"), table=TABLE.slice(0, 1))
    assert machine("a").find("toy", "k") == mine
    assert "another one of this key" in caplog.text
    assert machine("c").find("toy", "k").digest == theirs.digest  # type: ignore[union-attr]


def test_a_machine_without_the_earlier_nights_takes_their_parts_from_the_bucket(machine: Machine) -> None:
    def night(store: MirroredStore, key: str, parts: list[str]) -> tuple[Snapshot, list[str]]:
        writer, worked = store.open_attempt("toy", key), []
        for index, identity in enumerate(parts):
            if writer.reuse_part(identity, index) is None:
                worked.append(identity)
                table = pa.table({"id": [identity]})
                writer.part(identity, [writer.sink.write_table(part_name(index), table)], {"rows": 1})
        return store.commit(writer, **ABOUT), worked

    _, worked = night(machine("a"), "monday", ["x", "y"])
    assert worked == ["x", "y"]
    tuesday, worked = night(machine("b"), "tuesday", ["w", "x", "y"])
    assert worked == ["w"]
    assert tuesday.read()["id"].to_pylist() == ["w", "x", "y"]
    assert damaged_files(Path(tuesday.folder), tuesday.manifest, full=True) == []


def test_a_records_upload_that_fails_is_made_up_for(machine: Machine, server: S3Server, monkeypatch: Any) -> None:
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    forget_clients()
    store = machine("a")
    record = store.root.parent / "runs" / "20240101-r.json"
    record.parent.mkdir(parents=True)
    record.write_text('{"run_id": "r"}')
    server.stop()
    try:
        store.keep(record)
    finally:
        server.start()
    assert list(machine("b").records()) == []
    store.check()
    assert list(machine("b").records()) == [({"run_id": "r"}, False)]
    assert list(store.records()) == [({"run_id": "r"}, True)]


def test_a_record_that_is_broken_here_is_read_from_the_bucket_and_not_sent_over_it(machine: Machine) -> None:
    store = machine("a")
    record = store.root.parent / "runs" / "20240101-r.json"
    record.parent.mkdir(parents=True)
    record.write_text('{"run_id": "r"}')
    store.keep(record)
    record.write_text("")
    store.check()
    assert list(store.records()) == [({"run_id": "r"}, True)]
    assert list(machine("b").records()) == [({"run_id": "r"}, False)]


def test_digests_do_not_depend_on_where_the_store_is(machine: Machine, tmp_path: Path) -> None:
    made(machine("a"))
    made(SnapshotStore(tmp_path / "plain"))
    assert digests(machine("a")) == digests(SnapshotStore(tmp_path / "plain"))

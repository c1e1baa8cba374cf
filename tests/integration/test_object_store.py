"""Reviews in a bucket, on a real S3 server of this machine: read as files are, refused in words without secrets."""

from __future__ import annotations

import gzip
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from tasks import sources
from tasks.core.errors import InputError
from tasks.core.storage.store import SnapshotStore
from tasks.sources import locations
from tasks.stages.ingest.stage import ingest
from tests.support.accounts import Outcome, read_all, zipped
from tests.support.raw_files import delimited, review, write_parquet
from tests.support.s3_server import s3_server
from tests.support.stage_runs import made, settings

ROWS = [review(review_id=f"R{i:03}", star_rating=str(1 + i % 6), review_body="é★ " * (i % 9)) for i in range(300)]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL options of an S3 server."""
    with s3_server() as server:
        yield server.options


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "from-the-environment")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    locations._system_of.cache_clear()  # a system keeps the credentials that it was opened with
    yield
    locations._system_of.cache_clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reviews") / "in"
    (path / "2015").mkdir(parents=True)
    (path / "a.csv").write_text(delimited(ROWS[:70]))
    (path / "2015" / "b.jsonl.gz").write_bytes(
        gzip.compress("".join(json.dumps(r) + "\n" for r in ROWS[70:140]).encode())
    )
    write_parquet(path / "c.parquet", ROWS[140:210], row_group_size=20)
    (path / "d.tsv").write_text(delimited(ROWS[210:260], "\t", quoted=False))
    (path / "e.zip").write_bytes(zipped({"e.csv": delimited(ROWS[260:]).encode()}))
    (path / "damaged.parquet").write_bytes((path / "c.parquet").read_bytes()[:-9])
    (path / "_SUCCESS.csv").touch()
    return path


@pytest.fixture(scope="module")
def bucket(server: str, folder: Path) -> str:
    """The same files in a bucket; the URL without the options."""
    system, _ = fs.FileSystem.from_uri(f"s3://key:secret@reviews?{server}&allow_bucket_creation=true")
    system.create_dir("reviews")
    fs.copy_files(str(folder), "reviews/deep/in", destination_filesystem=system)
    return "s3://reviews/deep/in"


def contents(found: Outcome) -> tuple[list[dict[str, Any]], list[Any], set[str]]:
    return found.kept, found.rejected, set(found.damage)


def test_a_prefix_is_read_as_a_folder_is(
    folder: Path, bucket: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.sources.partitions.PART_MIN_BYTES", 1)
    here, there = read_all(folder), read_all(f"{bucket}?{server}")
    assert contents(here) == contents(there)
    assert there.units == here.units > 10
    assert (len(here.kept), len(here.rejected), set(here.damage)) == (250, 50, {"damaged.parquet"})


def test_a_bucket_a_file_and_a_glob_name_what_they_say(folder: Path, bucket: str, server: str) -> None:
    assert len(read_all(f"s3://reviews?{server}").kept) == 250
    assert [f.name for f in locations.find([f"{bucket}/c.parquet?{server}"])] == ["c.parquet"]
    assert [f.name for f in locations.find([f"{bucket}/*.csv?{server}"])] == ["_SUCCESS.csv", "a.csv"]
    assert [f.name for f in locations.find([f"{bucket}/20*/*?{server}"])] == ["2015/b.jsonl.gz"]
    both = read_all([f"{bucket}/a.csv?{server}", str(folder / "d.tsv")])
    assert len(both.kept) + len(both.rejected) == 120


def test_the_digest_is_that_of_the_files_wherever_they_lie(folder: Path, bucket: str, server: str) -> None:
    here, there = sources.discover(str(folder), "amazon-us"), sources.discover(f"{bucket}?{server}", "amazon-us")
    assert here.digest == there.digest
    assert [sources.identity(p) for p in sources.plan(here)] == [sources.identity(p) for p in sources.plan(there)]


@pytest.mark.usefixtures("ray_session")
def test_ingest_gives_the_same_snapshot_from_a_bucket(folder: Path, bucket: str, server: str, tmp_path: Path) -> None:
    config = settings("ingest.min_rows=10", "ingest.max_reject_fraction=0.5").ingest
    # Workers know only what the URL says: they have the environment of the process that started Ray.
    url = f"{bucket.replace('://', '://key:url-secret@')}?{server}"
    remote = made(SnapshotStore(tmp_path / "remote"), ingest, [sources.discover(url, "amazon-us")], config).snapshot
    local = made(
        SnapshotStore(tmp_path / "local"), ingest, [sources.discover(str(folder), "amazon-us")], config
    ).snapshot
    assert remote.digest == local.digest
    assert (remote.rows(), remote.rows("rejects"), remote.facts["quarantined"]) == (250, 50, 1)
    written = [p for p in (tmp_path / "remote").rglob("*") if p.is_file() and b"url-secret" in p.read_bytes()]
    assert written == []


def refused(url: str) -> str:
    with pytest.raises(InputError) as error:
        sources.discover(url, "amazon-us")
    message = str(error.value)
    assert len(message.splitlines()) == 2
    assert "secret" not in message
    assert "from-the-environment" not in message
    return message


def test_a_bucket_that_is_not_there(server: str) -> None:
    assert "no review files at this address" in refused(f"s3://key:secret@elsewhere/in?{server}")


def test_a_folder_that_is_not_there(bucket: str, server: str) -> None:
    assert "no review files at this address" in refused(f"{bucket}/deeper?{server}")


def test_credentials_that_are_wrong(bucket: str, server: str) -> None:
    def checks_begin_after(requests: str) -> None:
        url = f"http://{server.split('&')[0].partition('=')[2]}/moto-api/reset-auth"
        asked = urllib.request.Request(url, requests.encode(), {"Content-Type": "text/plain"}, method="POST")
        urllib.request.urlopen(asked).close()

    checks_begin_after("0")
    try:
        for url in (f"s3://key:secret@{bucket[5:]}?{server}", f"{bucket}?{server}", f"{bucket}/*.csv?{server}"):
            message = refused(url)
            assert "cannot be listed" in message
            assert "ACCESS_DENIED" in message
            assert "AWS_ACCESS_KEY_ID" in message
    finally:
        checks_begin_after("inf")
    assert len(read_all(f"{bucket}?{server}").kept) == 250

"""`raymill forget` where the snapshots' home is a bucket: what only that has goes, too, and machines share the list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.forget import found, purge
from flows.forget.places import Places
from flows.forget.sought import Sought
from flows.run import forgotten_users
from flows.run.scoring import for_scoring, trainings_storage
from tasks.core.errors import RunError
from tasks.core.storage.bucket import Bucket
from tasks.core.storage.mirror import MirroredStore
from tasks.settings import Settings, load_settings
from tasks.sources.forgotten import Forgotten
from tests.support.forgettable import HER, put, raw, reviews
from tests.support.s3_server import S3Server, names, s3_server, set_credentials


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def url(server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    set_credentials(monkeypatch)
    name = f"b{abs(hash(tmp_path)):x}"
    server.make(name)
    return str(server.url(name, "deep/home"))


def settings(root: Path, url: str) -> Settings:
    return load_settings(overrides=[f"storage.root={root}", f"storage.remote={url}"])


def test_what_only_the_bucket_has_is_found_and_removed(url: str, tmp_path: Path) -> None:
    bucket = Bucket(url)
    elsewhere, here = (MirroredStore(tmp_path / name / "snapshots", bucket) for name in ("a", "b"))
    put(elsewhere, "ingest", [reviews(HER), reviews("b")], (raw("source"),))
    put(elsewhere, "count-words", [], (raw("ingest"),))
    sought = Sought(frozenset({HER}))
    seen = found.find(here, sought)
    assert seen.touched == ["count-words-key", "ingest-key"]
    for key in seen.touched:
        purge.keep_rest(seen, seen.manifests[key])
        purge.remove(here, seen.manifests[key])
    left = names(bucket)
    assert not [name for name in left if "-key" in name]
    assert len([name for name in left if name.endswith("manifest.json")]) == 1  # the part without her
    assert found.find(MirroredStore(tmp_path / "c" / "snapshots", bucket), sought).files == {}


def test_reports_and_records_in_the_bucket_lose_the_users_too(url: str, tmp_path: Path) -> None:
    here = settings(tmp_path / "a", url)
    places = Places(here)
    (theirs, other) = (tmp_path / "a" / "runs" / f"{name}.json" for name in ("theirs", "other"))
    for record, key in ((theirs, "ingest-key"), (other, "x")):
        report = tmp_path / "a" / "reports" / record.stem / "report.html"
        for file in (record, report):
            file.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"run_id": record.stem, "stages": [{"stage": "ingest", "key": key}]}))
        report.write_text("a page")
        places.stores["main"].keep(record)
        places.stores["main"].keep(report)
    assert len(places.remove_shared_reports(["ingest-key"])) == 1
    assert places.remove_shared_reports([]) == []
    bucket = Bucket(url)
    assert [name for name in names(bucket) if "reports/" in name] == ["reports/other/report.html"]
    theirs.write_text("{}")
    places.share(theirs)
    assert bucket.get("runs/theirs.json") == b"{}"


def test_two_machines_that_forget_at_once_both_count(url: str, tmp_path: Path) -> None:
    first, second = (settings(tmp_path / name, url).storage for name in "ab")
    begun = Forgotten().with_users(["U0"], [])
    forgotten_users.keep(begun, first)
    forgotten_users.keep(begun.with_users([HER], ["part"]), first)
    forgotten_users.keep(begun.with_users(["U1"], []), second)  # it had read the list before
    found = forgotten_users.users_to_forget(first)
    assert found is not None
    assert found.among(["U0", "U1", HER, "U2"]) == {"U0", "U1", HER}
    assert found.parts == {"part"}
    with pytest.raises(RunError, match="another machine has begun the list"):
        forgotten_users.keep(Forgotten().with_users(["U3"], []), second)


def test_machines_share_the_list(url: str, tmp_path: Path) -> None:
    first, second = settings(tmp_path / "a", url), settings(tmp_path / "b", url)
    assert forgotten_users.users_to_forget(second.storage) is None
    listed = Forgotten().with_users([HER], ["part"])
    forgotten_users.keep(listed, first.storage)
    assert forgotten_users.users_to_forget(second.storage) == listed
    scoring = for_scoring(second, None, None)
    assert forgotten_users.users_to_forget(trainings_storage(scoring.storage)) == listed

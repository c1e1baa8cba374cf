"""A bucket: an answer of the object store becomes an error that says what to do, without secrets."""

from __future__ import annotations

import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks.core.digests import file_sha256
from tasks.core.errors import RaymillError, RunError, SettingsError, SnapshotCorrupt, TransientError
from tasks.core.storage import bucket as remote
from tasks.core.storage.bucket import Bucket
from tests.support.s3_server import SECRET, S3Server, forget_clients


@pytest.fixture(autouse=True)
def _one_attempt(monkeypatch: pytest.MonkeyPatch, credentials: None) -> None:
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    forget_clients()


def test_a_big_file_goes_in_pieces_and_comes_back_whole(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "WHOLE_BYTES", 5 << 20)  # the least that S3 takes for a piece
    path = tmp_path / "big"
    path.write_bytes(os.urandom(12 << 20))
    bucket.upload("big", path, file_sha256(path))
    assert bucket.get("big") == path.read_bytes()
    with pytest.raises(SnapshotCorrupt, match="changed"):
        bucket.upload("other", path, "00" * 32)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("gs://reviews/home", "not an s3:// address"),
        ("/mnt/home", "not an s3:// address"),
        ("s3:///home", "no bucket"),
        (f"s3://AKIATEST:{SECRET}@reviews/home", "must not hold keys"),
        (f"s3://AKIATEST:{SECRET}/x@reviews/home", "must not hold keys"),
        (f"s3://reviews/home?secret_key={SECRET}", "unknown option 'secret_key'"),
        ("s3://reviews/home?scheme=ftp", "scheme"),
    ],
)
def test_an_address_that_cannot_be_a_home_is_refused_without_its_secrets(url: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        Bucket(url)
    assert "storage.remote" in caught.value.where
    assert SECRET not in str(caught.value)


def refused(kind: type[RaymillError], bucket: Bucket) -> str:
    """Return the error of the check before a run, which names the place and what to do, but no secret."""
    with pytest.raises(kind) as caught:
        bucket.check()
    assert caught.value.where.startswith(f"s3://{bucket.name}")
    assert caught.value.fix
    assert SECRET not in str(caught.value)
    return caught.value.what


def test_a_bucket_that_is_not_there(server: S3Server) -> None:
    assert "no such bucket" in refused(SettingsError, Bucket(server.url("elsewhere")))


def test_credentials_that_are_wrong(server: S3Server, bucket: Bucket) -> None:
    server.check_credentials_after("0")
    try:
        assert "does not know these credentials" in refused(SettingsError, bucket)
    finally:
        server.check_credentials_after("inf")
    bucket.check()


def test_no_credentials_at_all(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    forget_clients()
    assert "NoCredentialsError" in refused(SettingsError, bucket)


def test_without_boto3_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(SettingsError, match=r"this needs boto3") as told:
        Bucket("s3://reviews/home").get("name")
    assert '".[s3]"' in str(told.value)


def test_a_store_that_is_down(server: S3Server, bucket: Bucket) -> None:
    server.stop()
    try:
        assert "does not answer" in refused(TransientError, bucket)
    finally:
        server.start()
    bucket.check()


@pytest.mark.parametrize(
    ("status", "code", "kind", "says"),
    [
        (400, "ExpiredToken", SettingsError, "expired"),
        (403, "AccessDenied", SettingsError, "not allowed to create"),
        (403, "SignatureDoesNotMatch", SettingsError, "secret key"),
        (403, "RequestTimeTooSkewed", SettingsError, "clock"),
        (501, "NotImplemented", SettingsError, "does not know this kind of request"),
        (503, "SlowDown", TransientError, "does not answer"),
        (500, "InternalError", TransientError, "does not answer"),
        (409, "ConditionalRequestConflict", TransientError, "others keep writing"),
        (400, "EntityTooLarge", RunError, "EntityTooLarge"),
        (200, "", SettingsError, "ignores conditional writes"),
    ],
)
def test_what_a_store_answers_becomes_an_error_of_ours(
    status: int, code: str, kind: type[RaymillError], says: str
) -> None:

    class Always(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # or the client waits a second for a word before it sends the body

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode() if code else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Always) as answering:
        threading.Thread(target=answering.serve_forever, args=(0.01,), daemon=True).start()
        try:
            bucket = Bucket(f"s3://reviews/home?scheme=http&endpoint_override=127.0.0.1:{answering.server_port}")
            assert says in refused(kind, bucket)
        finally:
            answering.shutdown()

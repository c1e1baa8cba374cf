"""Read and write the objects of a bucket behind an S3 interface. This module knows nothing of snapshots.

    s3://BUCKET/PREFIX?region=eu-west-1
    s3://BUCKET/PREFIX?endpoint_override=HOST:PORT&scheme=http

The options are those of an input's URL. boto3 finds the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a
profile, a role); the URL must not hold them, as messages and parameters show it.

pyarrow's file system, which reads the inputs, cannot create an object only if it is absent. So this uses boto3.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tasks.core.digests import file_sha256
from tasks.core.errors import RaymillError, RunError, SettingsError, SnapshotCorrupt, TransientError

OPTIONS = ("region", "endpoint_override", "scheme")
MARKER = "raymill.json"  # marks a store, and proves that the bucket can create an object only if absent
WHOLE_BYTES = 64 << 20  # a bigger file is sent in pieces of this size
CHUNK_BYTES = 1 << 20
ATTEMPTS = 4  # tries of one request, with doubling waits
CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile or role that boto3 finds"
# Errors that no retry cures: the store's code, what it means, what to do.
WRONG = {
    "NoSuchBucket": ("there is no such bucket", "make the bucket, or check the name in storage.remote"),
    "InvalidBucketName": ("this is not a bucket's name", "check storage.remote"),
    "InvalidAccessKeyId": ("the store does not know these credentials", CREDENTIALS),
    "SignatureDoesNotMatch": ("the store does not accept the secret key", CREDENTIALS),
    "InvalidToken": ("the store does not accept the session token", CREDENTIALS),
    "InvalidClientTokenId": ("the store does not know these credentials", CREDENTIALS),
    "ExpiredToken": ("the credentials have expired", "get new ones and start again: finished stages are reused"),
    "RequestTimeTooSkewed": ("this machine's clock is off by too much", "set the clock"),
    "PermanentRedirect": ("the bucket is in another region", "add ?region=REGION to storage.remote"),
    "AuthorizationHeaderMalformed": ("the bucket is in another region", "add ?region=REGION to storage.remote"),
    "NotImplemented": ("the store does not know this kind of request", "docs/s3.md lists what a store must support"),
}
EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
DENIED = ("AccessDenied", "AllAccessDisabled", "AccountProblem", "Forbidden", "403")
PASSING = ("SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "OperationAborted")
DAMAGED = ("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch")
EXISTS, CONTENDED = "PreconditionFailed", "ConditionalRequestConflict"


@dataclass(frozen=True)
class Stored:
    """An object: its name below the prefix, its size in bytes, when it was written (UTC)."""

    name: str
    size: int
    modified: datetime


class _Damaged(TransientError):
    pass


class Bucket:
    """The objects below one prefix of a bucket. Threads may share it.

    Each method raises SettingsError for what a user must fix (credentials, the bucket's name, permissions) and
    TransientError if the store does not answer. No message holds a secret.
    """

    def __init__(self, url: str) -> None:
        self.name, self.prefix, self._options = _parsed(url)
        self._at = f"{self.prefix}/" if self.prefix else ""

    def __str__(self) -> str:
        endpoint = self._options.get("endpoint_override")
        return f"s3://{self.name}/{self.prefix}".rstrip("/") + (f" at {endpoint}" if endpoint else "")

    def check(self) -> None:
        """Raise unless the bucket exists, is writable, and can create an object only if it is absent."""
        mark = b'{"layout": 1}'
        if self.put_if_absent(MARKER, mark) and self.put_if_absent(MARKER, mark):
            raise SettingsError(
                "this store ignores conditional writes: it overwrote an object that exists",
                where=str(self),
                fix="use one that supports If-None-Match (docs/s3.md)",
            )

    def get(self, name: str) -> bytes | None:
        """Read a whole object; None if there is none."""
        try:
            return b"".join(self.chunks(name))
        except FileNotFoundError:
            return None

    def chunks(self, name: str) -> Iterator[bytes]:
        """Stream an object's bytes. Raises FileNotFoundError if there is none."""
        with self._asking(f"read {name}"):
            body = self._client.get_object(Bucket=self.name, Key=self._at + name)["Body"]
            with body:
                yield from body.iter_chunks(CHUNK_BYTES)

    def put(self, name: str, data: bytes) -> None:
        """Write a small object, replacing any earlier one."""
        with self._asking(f"write {name}"):
            self._client.put_object(Bucket=self.name, Key=self._at + name, Body=data)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Create a small object; False if there is one already, which stays unchanged.

        False may also mean that the object was created and the answer got lost: compare the contents.
        """
        for _ in range(5):
            try:
                with self._asking(f"create {name}"):
                    self._client.put_object(Bucket=self.name, Key=self._at + name, Body=data, IfNoneMatch="*")
                return True
            except FileExistsError:
                return False
            except BlockingIOError:  # another request for the same name is under way
                continue
        raise TransientError(f"others keep writing {name}", where=str(self), fix="start again")

    def upload(self, name: str, path: Path, sha256: str) -> None:
        """Send a file of any size. The store itself checks the (hex) sha256.

        Raises SnapshotCorrupt if the local file no longer has this sha256.
        """
        try:
            with path.open("rb") as file, self._asking(f"write {name}"):
                if path.stat().st_size <= WHOLE_BYTES:
                    digest = base64.b64encode(bytes.fromhex(sha256)).decode()
                    self._client.put_object(Bucket=self.name, Key=self._at + name, Body=file, ChecksumSHA256=digest)
                    return
                # A file sent in pieces has a checksum for each piece, so the whole has to be checked here.
                if file_sha256(path) != sha256:
                    raise _changed(path)
                self._client.upload_fileobj(
                    file, self.name, self._at + name, ExtraArgs={"ChecksumAlgorithm": "SHA256"}, Config=_in_pieces()
                )
        except _Damaged:
            if file_sha256(path) != sha256:
                raise _changed(path) from None
            raise
        except FileNotFoundError:
            raise _changed(path) from None

    def objects(self, below: str) -> list[Stored]:
        """List all objects whose names begin with `below`, by name."""
        listed = []
        with self._asking(f"list {below}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=self._at + below)
            for page in pages:
                for o in page.get("Contents", []):
                    listed.append(Stored(o["Key"].removeprefix(self._at), o["Size"], o["LastModified"]))
        return listed

    def delete(self, names: Sequence[str]) -> None:
        """Remove these objects in order, a thousand per request; objects that do not exist are ignored."""
        for start in range(0, len(names), 1000):
            keys = [{"Key": self._at + name} for name in names[start : start + 1000]]
            with self._asking(f"remove {names[start]}"):
                answer = self._client.delete_objects(Bucket=self.name, Delete={"Objects": keys, "Quiet": True})
            if errors := answer.get("Errors"):
                raise self._refused(str(errors[0].get("Code")), 0, f"remove {names[start]}")

    @property
    def _client(self) -> Any:
        return _client(self._options.get("region"), self._options.get("endpoint_override"), self._options["scheme"])

    @contextmanager
    def _asking(self, to: str) -> Iterator[None]:
        """Translate boto3's errors: FileNotFoundError, FileExistsError and BlockingIOError for the methods above, the
        rest for the user. The store's and boto3's own messages may hold keys, so none is passed on.
        """
        _ = self._client  # imports botocore, or raises that it is missing
        from botocore import exceptions as boto  # type: ignore[import-untyped]

        try:
            yield
        except boto.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            raise self._refused(code, status, to) from None
        except boto.SSLError:
            what = f"cannot {to}: no secure connection to the store"
            fix = "check the certificates (AWS_CA_BUNDLE), or add &scheme=http for a store without TLS"
            raise SettingsError(what, where=str(self), fix=fix) from None
        except (boto.ConnectionError, boto.HTTPClientError, boto.IncompleteReadError) as error:
            raise self._silent(type(error).__name__, to) from None
        except boto.ParamValidationError:
            raise SettingsError(f"cannot {to}: invalid name", where=str(self), fix="check storage.remote") from None
        except boto.BotoCoreError as error:  # no credentials, half of them, no such profile, a login that is over
            what = f"cannot {to} with these credentials and settings ({type(error).__name__})"
            raise SettingsError(what, where=str(self), fix=CREDENTIALS) from None

    def _refused(self, code: str, status: int, to: str) -> Exception:
        internal = {EXISTS: FileExistsError, "412": FileExistsError, CONTENDED: BlockingIOError}
        if code in internal:
            return internal[code](to)
        if code in ("NoSuchKey", "404"):
            return FileNotFoundError(to)
        if code in DAMAGED:
            return _Damaged(f"cannot {to}: the data were damaged in transfer", where=str(self), fix="start again")
        if wrong := WRONG.get("ExpiredToken" if code in EXPIRED else code):
            return SettingsError(f"cannot {to}: {wrong[0]}", where=str(self), fix=wrong[1])
        if code in DENIED:
            fix = "check the credentials, and that they may list, read, write and delete below this prefix"
            return SettingsError(f"not allowed to {to}", where=str(self), fix=fix)
        if code in PASSING or status >= 500 or not status:
            return self._silent(code, to)
        fix = "docs/s3.md lists what a store must support"
        return RunError(f"cannot {to}: the store says {code}", where=str(self), fix=fix)

    def _silent(self, why: str, to: str) -> RaymillError:
        fix = "start again once it answers: finished stages are reused, and outputs not yet stored are stored then"
        return TransientError(f"cannot {to}: the store does not answer ({why})", where=str(self), fix=fix)


def _parsed(url: str) -> tuple[str, str, dict[str, str]]:
    """Split a URL into bucket, prefix and options. Raises SettingsError, which holds no password."""
    split = urlsplit(url)
    options = {"scheme": "https", **dict(parse_qsl(split.query))}
    problem = ""
    if split.scheme != "s3":
        problem = "not an s3:// address; other stores need an S3 interface"
    elif "@" in url:  # a key may hold a slash, and then the rest looks like a folder
        problem = f"an address must not hold keys; {CREDENTIALS}"
    elif not split.netloc:
        problem = "no bucket is named"
    elif unknown := sorted(set(options) - set(OPTIONS)):
        problem = f"unknown option {unknown[0]!r}; known: {', '.join(OPTIONS)}"
    elif options["scheme"] not in ("http", "https"):
        problem = "scheme must be http or https"
    if problem:
        shown = url.rpartition("@")[2].split("?")[0]
        raise SettingsError(problem, where=f"storage.remote: {shown}", fix="give s3://BUCKET/PREFIX")
    return split.netloc, split.path.strip("/"), options


@lru_cache(maxsize=8)
def _client(region: str | None, endpoint: str | None, scheme: str) -> Any:
    """Make a client, once (it takes a quarter of a second); it keeps its credentials."""
    try:
        import boto3  # type: ignore[import-untyped]
        from botocore.config import Config  # type: ignore[import-untyped]
        from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]
    except ImportError:
        fix = 'pip install --constraint constraints.txt --editable ".[s3]"'
        raise SettingsError("this needs boto3", where="storage.remote", fix=fix) from None
    own = endpoint or any(os.environ.get(name) for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"))
    config = Config(
        s3={"addressing_style": "path" if own else "auto"},  # few self-hosted stores resolve BUCKET.HOST
        max_pool_connections=32,
        connect_timeout=10,
        read_timeout=30,  # times ATTEMPTS, and twice, as a stage is tried again: a silent store costs four minutes
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        # Many S3-like stores do not support the checksum that boto3 appends to the body.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        session = boto3.session.Session(region_name=region)
        return session.client("s3", endpoint_url=f"{scheme}://{endpoint}" if endpoint else None, config=config)
    except (BotoCoreError, ValueError) as error:
        what = f"no client can be made from these settings ({type(error).__name__})"
        raise SettingsError(what, where="storage.remote", fix=f"check the endpoint; {CREDENTIALS}") from None


def _changed(path: Path) -> SnapshotCorrupt:
    fix = "raymill gc --damaged removes it; the next run makes it again"
    return SnapshotCorrupt("this file has changed since it was written", where=str(path), fix=fix)


def _in_pieces() -> Any:
    from boto3.s3.transfer import TransferConfig  # type: ignore[import-untyped]

    return TransferConfig(multipart_threshold=WHOLE_BYTES, multipart_chunksize=WHOLE_BYTES, max_concurrency=4)

"""Run a local S3 server in its own process: moto, which keeps everything in memory."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.request import Request, urlopen

from tasks.core.errors import RunError

BUCKET = "raymill-bench"
KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}  # it takes any
START_S = 60


def serve(cleanup: ExitStack, scratch: Path) -> str:
    """Start a server with an empty bucket, which `cleanup` ends; returns an address for `storage.remote`.

    Raises RunError if it does not answer within START_S seconds.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (scratch / "s3.log").open("w") as log:
        command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(command, stdout=log, stderr=log)
    cleanup.callback(server.wait)
    cleanup.callback(server.terminate)
    remote = f"s3://{BUCKET}/home?endpoint_override=127.0.0.1:{port}&scheme=http"
    deadline = time.monotonic() + START_S
    while True:
        try:
            empty(remote)
            return remote
        except OSError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                tail = (scratch / "s3.log").read_text()[-2000:]
                raise RunError(f"the S3 server did not start: {error}\n{tail}", where="bench") from None
            time.sleep(0.1)


def empty(remote: str) -> None:
    """Remove all of the server's objects, and make the bucket. Raises OSError if it does not answer."""
    server = "http://" + remote.partition("endpoint_override=")[2].partition("&")[0]
    for url, method in ((f"{server}/moto-api/reset", "POST"), (f"{server}/{BUCKET}", "PUT")):
        urlopen(Request(url, method=method, data=b""), timeout=START_S).close()

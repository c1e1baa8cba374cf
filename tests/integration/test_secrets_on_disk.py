"""A run that is given secrets leaves none of them on disk, on the screen or with the webhook."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from pyarrow import fs

from tests.support.raw_files import delimited, review
from tests.support.s3_server import s3_server
from tests.support.webhook import listening

pytestmark = [pytest.mark.slow, pytest.mark.nightly]
CANARY = "kanari"  # part of each secret
ROWS = [review(review_id=f"R{i:03}", star_rating=str(1 + i % 6)) for i in range(300)]  # 50 of them with six stars


@pytest.fixture
def place() -> Iterator[Path]:
    with TemporaryDirectory(prefix="raymill-", ignore_cleanup_errors=True) as folder:  # Ray's sockets need short paths
        yield Path(folder)


def test_no_secret_is_left_behind_by_a_run_that_ends_well_and_one_that_fails(place: Path) -> None:
    with s3_server() as server, listening() as hook:
        system, _ = fs.FileSystem.from_uri(f"s3://k:s@reviews?{server.options}&allow_bucket_creation=true")
        system.create_dir("reviews")
        with system.open_output_stream("reviews/a.csv") as file:
            file.write(delimited(ROWS).encode())

        def run(*more: str) -> subprocess.CompletedProcess[str]:
            settings = {"storage.root": place / "data", "tracking.uri": f"sqlite:///{place}/mlflow.db"}
            settings |= {"ingest.min_rows": 10, "tune.storage": "postgresql://u:kanari-storage@127.0.0.1:1/none"}
            given = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
            url = f"s3://K:kanari-in-the-url@reviews/a.csv?{server.options}"
            # Ray's workers have the environment of the command: what they write must not show it either.
            env = {**os.environ, "PREFECT_HOME": str(place / "prefect"), "RAY_TMPDIR": str(place / "ray")}
            env |= {"RAYMILL__NOTIFY__WEBHOOK": f"{hook.url}?sig=kanari-signature", "SOMEBODYS_TOKEN": "kanari-token"}
            command = [
                sys.executable,
                "-m",
                "flows.cli.main",
                "run",
                "--input",
                url,
                "--until",
                "ingest",
                *given,
                *more,
            ]
            return subprocess.run(command, capture_output=True, text=True, timeout=500, env=env)

        well = run("--set", "ingest.max_reject_fraction=0.5", "--json", str(place / "summary.json"))
        badly = run("--set", "ingest.max_reject_fraction=0.1")
        wrong = run("--set", "services.auth=[kanari-auth]", "--set", "ingest.min_rows=-1")
    codes = (well.returncode, badly.returncode, wrong.returncode)
    assert codes == (0, 1, 2), "\n".join(done.stderr[-1500:] for done in (well, badly, wrong))
    # On a busy machine an answer may come too late, and is asked for again.
    assert list(dict.fromkeys(told["state"] for told in hook.posted)) == ["completed", "failed"]
    assert CANARY not in repr(hook.posted)
    assert [out for done in (well, badly, wrong) for out in (done.stdout, done.stderr) if CANARY in out] == []
    contents = {}
    for path in place.rglob("*"):
        with suppress(FileNotFoundError):  # Ray's last processes tidy up
            if path.is_file():
                contents[path] = path.read_bytes()
    assert {"summary.json", "mlflow.db", "prefect.db", "manifest.json"} <= {path.name for path in contents}
    assert [str(path) for path, content in contents.items() if CANARY.encode() in content] == []

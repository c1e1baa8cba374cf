"""`raymill drill` with real faults: on every run of the tests those of one stage, each night all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.core.sections import PROJECT

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(3600)]

# Of one stage, so that the reference run ends with it: a kill of the run, of the process that writes, of Ray, a full
# disk, a disk error, the end by a signal.
FEW = ("clean:before-manifest", "clean:writing", "flow:SIGTERM:clean", "disk:ENOSPC:clean", "disk:full:clean")
FEW += ("ray:raylet:clean", "clock:back:clean")


def drill(folder: Path, *arguments: str, limit_s: float = 3000) -> tuple[int, dict[str, Any], str]:
    """Returns the exit status, the certificate and what was said."""
    command = [sys.executable, "-m", "flows.cli.main", "drill", "--out", str(folder), *arguments]
    done = subprocess.run(
        command, cwd=PROJECT, env={**os.environ, "COLUMNS": "80"}, capture_output=True, text=True, timeout=limit_s
    )
    told = folder / "certificate.json"
    assert told.exists(), done.stdout + done.stderr
    return done.returncode, json.loads(told.read_text()), done.stdout + done.stderr


def test_faults_of_a_stage_resume_to_the_reference_and_leave_nothing(tmp_path: Path) -> None:
    status, certificate, said = drill(tmp_path, *(f"--points={name}" for name in FEW))
    assert status == 0, said
    assert {p["point"] for p in certificate["points"]} == set(FEW)
    assert certificate["totals"]["passed"] >= len(FEW) - 1  # disk:full needs a mount
    assert certificate["totals"]["orphan_bytes"] == 0
    assert certificate["totals"]["rows_lost"] == certificate["totals"]["rows_repeated"] == 0
    # A second call finds all done.
    again, certified, _ = drill(tmp_path, *(f"--points={name}" for name in FEW))
    assert (again, certified["points"]) == (0, certificate["points"])


@pytest.mark.nightly
@pytest.mark.timeout(6 * 3600)
def test_every_fault_point_resumes_to_the_reference(tmp_path: Path) -> None:
    more = ("pack_tokens.enabled=true", "embeddings.enabled=true", "tune.storage=postgresql://own/server")
    more += ("storage.remote=s3://own/bucket",)
    status, certificate, said = drill(tmp_path, *(f"--set={setting}" for setting in more), limit_s=5.5 * 3600)
    assert status == 0, said
    assert certificate["totals"]["passed"] >= 60

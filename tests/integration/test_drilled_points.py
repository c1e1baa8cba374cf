"""`raymill drill` with real faults: in `make test` a few of one stage, in `make test-all` twelve of all, by the day.

DRILL_NIGHT=5 tries what the fifth night tries, DRILL_NIGHT=all every point, for hours, as `raymill drill` does.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from flows.drill.points import points
from tasks.core.sections import PROJECT

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(3600)]

# Of one stage, so that the reference run ends with it: a kill of the run, of the process that writes, and of Ray. Full
# disks, signals and clocks: test_killed_stage.py has those of a small stage, without Ray.
FEW = ("clean:before-manifest", "clean:writing", "ray:raylet:clean")
A_NIGHT = 12


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
    assert certificate["totals"]["passed"] == len(FEW)
    assert certificate["totals"]["orphan_bytes"] == 0
    assert certificate["totals"]["rows_lost"] == certificate["totals"]["rows_repeated"] == 0
    # A second call finds all done.
    again, certified, _ = drill(tmp_path, *(f"--points={name}" for name in FEW))
    assert (again, certified["points"]) == (0, certificate["points"])


def of_a_night(which: str, names: list[str]) -> list[str]:
    """The fault points of a night, given by number; after as many nights as it takes, all were tried."""
    if which == "all":
        return names
    shuffled = random.Random(0).sample(names, len(names))
    nights = -(-len(names) // A_NIGHT)
    return shuffled[int(which) % nights :: nights]


def test_every_fault_point_has_its_night() -> None:
    names = [point.name for point in points()]
    nights = [of_a_night(str(date(2026, 1, 1).toordinal() + n), names) for n in range(-(-len(names) // A_NIGHT))]
    assert sorted(name for night in nights for name in night) == sorted(names)
    assert max(map(len, nights)) == A_NIGHT


@pytest.mark.nightly
@pytest.mark.timeout(6 * 3600)
def test_the_fault_points_of_tonight_resume_to_the_reference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    which = os.environ.get("DRILL_NIGHT", str(date.today().toordinal()))
    names = of_a_night(which, [point.name for point in points()])
    with capsys.disabled():
        print(f"\nDRILL_NIGHT={which}: {', '.join(names)}")
    more = ("pack_tokens.enabled=true", "embeddings.enabled=true", "tune.storage=postgresql://own/server")
    more += ("storage.remote=s3://own/bucket",)
    chosen = (*(f"--points={name}" for name in names), *(f"--set={setting}" for setting in more))
    status, certificate, said = drill(tmp_path, *chosen, limit_s=5.5 * 3600)
    assert status == 0, said
    assert {p["point"] for p in certificate["points"]} == set(names)

"""What the case scaling makes of its seconds."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks.cases import scaling
from benchmarks.harness import Setup, Timed
from benchmarks.sorting import Job
from tasks.core.errors import UserError


def test_speed_up_efficiency_and_serial_share_by_workers() -> None:
    job = Job(pa.table({"key": [1]}), [], workers=2)
    seconds = {"ours": 0.6, "workers_1": 1.0, "workers_2": 0.6, "workers_4": 0.5, "weak_1": 0.45, "polars": 0.8}
    found = scaling.details(job, {name: [Timed(s, None)] * 3 for name, s in seconds.items()})["ours"]
    assert [row["workers"] for row in found["by_workers"]] == [1, 2, 4]
    two = found["by_workers"][1]
    assert (two["speed_up"], two["efficiency"], two["karp_flatt"]) == (1.667, 0.833, 0.2)
    # Four workers on two cores are no part of the fit.
    assert (found["amdahl_alone_s"], found["amdahl_serial_fraction"]) == (1.0, 0.2)
    assert found["weak_efficiency"] == 0.75


def test_numbers_of_workers_that_share_no_whole_part_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 workers cannot be compared"):
        scaling.prepare(Setup(100, 3, tmp_path))

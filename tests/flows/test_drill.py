"""`raymill drill`: its list of points, how it judges, that it is bounded and goes on, what its certificate says."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from flows.cli import drill_console as command
from flows.drill import plan, processes
from flows.drill import points as declared
from flows.drill.certificate import Certificate, quantile
from flows.drill.place import Place, orphans
from flows.drill.points import Point, points
from flows.drill.processes import Ended, Spawned
from flows.drill.result import Evidence, Result, judged
from flows.drill.runner import Drill, _file_name
from flows.drill.scenes import Scene
from flows.run.names import stage_names
from tasks.core import faults
from tasks.core.errors import UserError
from tasks.core.storage.store import SnapshotStore
from tasks.settings import load_settings
from tasks.stages import declared_stages
from tests.support.command import raymill
from tests.support.toy_snapshots import made

STAGE = {"stage": "clean", "unit": "rows", "rows_in": 10, "rows": 8, "rejected": 1, "repeated": 1, "digest": "d"}
KILLED, DONE = Ended(-9, 5.0, "", 100.0), Ended(0, 7.0, "fine", 110.0)


def evidence(**changed: Any) -> Evidence:
    """What a point shows that passes: killed, gone on with, all as in the reference."""
    seen: dict[str, Any] = {"struck": True, "struck_at": 99.0, "first": KILLED, "again": DONE}
    return Evidence(**{**seen, "rows": [STAGE], "expected": {"clean": STAGE}, **changed})


# -- the points --------------------------------------------------------------------------------------------------------


def test_every_declared_stage_has_each_of_its_points_and_no_two_points_share_a_name() -> None:
    names = [point.name for point in points()]
    stages = stage_names() - {"register"}
    assert {f"{stage}:{at}" for stage in stages for at in (*faults.POINTS, "writing")} <= set(names)
    assert len(names) >= 60
    assert len({_file_name(name) for name in names}) == len(names)


def test_a_new_stage_gets_its_points_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = {**declared_stages(), "new-stage": declared_stages()["clean"]}
    monkeypatch.setattr(declared, "declared_stages", lambda: stages)
    assert {f"new-stage:{at}" for at in faults.POINTS} <= {point.name for point in points()}


def test_points_name_stages_that_exist_and_say_what_happens() -> None:
    stages = {*stage_names(), ""}
    assert [p.name for p in points() if not {p.stage, *p.afresh} <= stages or not p.says] == []


@pytest.mark.parametrize(("storage", "left_out"), [("postgresql://own/server", False), ("null", True)])
def test_a_database_that_a_deployment_has_is_struck(storage: str, left_out: bool) -> None:
    reason = declared.has_postgres(load_settings(overrides=[f"tune.storage={storage}"]))
    assert ("the deployment has no PostgreSQL" in reason) == left_out


def test_the_list_is_shown_and_an_unknown_point_is_a_mistake() -> None:
    shown = raymill("drill", "--list", "--points", "clean:*", COLUMNS="80")
    assert shown.returncode == 0
    assert "clean:before-manifest" in shown.stdout
    assert f"{1 + len(faults.POINTS)} fault points" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert "worker:train:train:round:1" in raymill("drill", "--list", "--points", "worker:train:*").stdout
    wrong = raymill("drill", "--points", "cleen:*")
    assert wrong.returncode == 2
    assert "raymill drill --list names them" in wrong.stderr


# -- the judgement -----------------------------------------------------------------------------------------------------


def test_a_killed_run_that_was_gone_on_with_and_one_that_survived_pass() -> None:
    resumed, survived = judged("p", evidence()), judged("p", evidence(first=Ended(0, 9.0, "", 103.0)))
    assert (resumed.outcome, resumed.recovery_s, resumed.passed) == ("resumed", 7.0, True)
    assert (survived.outcome, survived.recovery_s, survived.passed) == ("survived", 4.0, True)


@pytest.mark.parametrize(
    ("changed", "outcome"),
    [
        ({"struck": False}, "not reached"),
        ({"first": Ended(None, 60.0, "", 0.0), "again": None}, "hang"),
        ({"again": Ended(None, 60.0, "", 0.0)}, "hang"),
        ({"again": Ended(1, 60.0, "error: it broke", 0.0)}, "failed"),
        ({"rows": []}, "failed"),
        ({"rows": [{**STAGE, "digest": "other"}]}, "differs"),
        ({"rows": [{**STAGE, "rows": 7}]}, "rows"),
        ({"role": "version 2 is challenger", "expected_role": "version 1 is challenger"}, "differs"),
        ({"damaged": ["clean"]}, "damaged"),
        ({"unrecorded": ["clean"]}, "unrecorded"),
        ({"orphan_bytes": 7}, "orphans"),
    ],
)
def test_whatever_is_wrong_fails_the_point(changed: dict[str, Any], outcome: str) -> None:
    result = judged("p", evidence(**changed))
    assert (result.outcome, result.passed) == (outcome, False)
    certificate = Certificate([Result("q", "resumed"), result], [], "reviews")
    assert not certificate.holds
    assert certificate.verdict.startswith("FAILED: 1 of 2")


@pytest.mark.parametrize(("rows", "lost", "repeated"), [(8, 0, 0), (6, 2, 0), (11, 0, 3)])
def test_rows_lost_and_repeated_are_counted(rows: int, lost: int, repeated: int) -> None:
    result = judged("p", evidence(rows=[{**STAGE, "rows": rows}]))
    assert (result.rows_lost, result.rows_repeated) == (lost, repeated)


def test_files_that_no_snapshot_has_are_orphans(tmp_path: Path) -> None:
    place = Place(tmp_path)
    snapshot = made(place.store, stage="clean")
    assert orphans(place.store) == []
    left = Path(snapshot.folder) / "attempt-dead" / "part-00000.parquet"
    left.parent.mkdir()
    left.write_bytes(b"x")
    assert orphans(place.store) == [left]


# -- the certificate ---------------------------------------------------------------------------------------------------


def test_the_certificate_counts_what_was_tried_and_names_what_was_not() -> None:
    results = [Result("a:b", "resumed", recovery_s=s, seconds=9) for s in (1.0, 2.0, 3.0)]
    results.append(Result("x:y", "skipped", "the deployment has no bucket"))
    whole = Certificate(results, [], "reviews")
    assert whole.holds
    assert whole.verdict == "passed: 3 of 3 fault points resume to the same digests, 1 skipped"
    page = whole.to_markdown()
    assert "| `x:y` | the deployment has no bucket |" in page
    assert "| `a:b` | resumed | 1.0 | 0 |" in page
    assert whole.to_json()["totals"]["recovery_p95_s"] == 3.0
    unfinished = Certificate(results, ["c:d"], "reviews")
    assert not unfinished.holds
    assert "Not tried yet: `c:d`." in unfinished.to_markdown()
    assert not Certificate(results[3:], [], "reviews").holds


@pytest.mark.parametrize(("share", "value"), [(0.5, 50.0), (0.95, 95.0), (1.0, 100.0)])
def test_a_quantile_is_one_of_the_values(share: float, value: float) -> None:
    assert quantile([float(n) for n in range(1, 101)], share) == value
    assert quantile([], share) == 0.0


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_a_hanging_process_is_ended_with_its_children_at_the_limit(tmp_path: Path) -> None:
    said, started = tmp_path / "said.txt", []

    def start() -> processes.Process:
        hang = "setsid sleep 999 & echo $!; exec sleep 999"
        with said.open("w") as output:
            started.append(Spawned(subprocess.Popen(["sh", "-c", hang], stdout=output, start_new_session=True)))
        return started[0]

    ended = processes.run(start, said, 1.0)
    assert ended.status is None
    assert started[0].status() is not None
    child = int(ended.said)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


# -- the drill itself --------------------------------------------------------------------------------------------------


@pytest.fixture
def reviews(tmp_path: Path) -> list[str]:
    return command.synthetic(tmp_path / "made")


class Runs:
    """Fake runs: each commits `clean`; the next one after the fault says that it has this digest."""

    def __init__(self, digest: str = "d") -> None:
        self.digest, self.started = digest, 0

    def __call__(self, drill: Drill, place: Place, _scene: Scene, _until: str, armed: Any = None, **_: Any) -> Ended:
        self.started += 1
        if armed:
            place.marker.write_text("1")
            return KILLED
        digest = "d" if place.root == drill.reference.root else self.digest
        row = {**STAGE, "digest": digest, "key": "k"}
        (place.root / "summary.json").write_text(json.dumps({"stages": [row]}))
        return DONE


@pytest.fixture
def without_runs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let `drill` do all but start processes; returns a function that sets the runs."""

    @contextmanager
    def serving(_: Drill) -> Iterator[None]:
        yield

    monkeypatch.setattr(Drill, "serving", serving)
    monkeypatch.setattr(Drill, "_start", lambda *_: DONE)

    def runs(fake: Runs) -> Runs:
        monkeypatch.setattr(Drill, "_run", lambda self, *given, **named: fake(self, *given, **named))
        return fake

    return runs


def tried(folder: Path, arguments: list[str], found: list[Point], *overrides: str) -> tuple[Certificate, str]:
    said = io.StringIO()
    work = Drill(folder, arguments, overrides, 60, forks=False)
    certificate = command.tried(Console(file=said, width=80), work, found, "reviews")
    command.print_certificate(Console(file=said, width=80), certificate, certificate.write(folder))
    return certificate, said.getvalue()


def test_a_drill_goes_on_with_the_points_that_have_no_result(
    tmp_path: Path, reviews: list[str], without_runs: Any
) -> None:
    found = [p for p in points() if p.name.startswith("clean:")]
    runs = without_runs(Runs())
    first, said = tried(tmp_path / "drill", reviews, found[:2])
    assert first.holds, said
    assert runs.started == 1 + 2 * 2
    again, said = tried(tmp_path / "drill", reviews, found[:3])
    assert again.holds
    assert runs.started == 1 + 2 * 3
    assert [r.point for r in again.results] == [p.name for p in found[:3]]
    assert max(map(len, said.splitlines())) <= 80 or "certificate" in said


def test_an_interrupted_drill_says_that_it_goes_on(
    tmp_path: Path, without_runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Drill, "refer", interrupted)
    done = raymill("drill", "--out", str(tmp_path), "--points", "clean:after-run")
    assert done.returncode == 130
    assert "start it again to continue" in done.stderr


def test_other_settings_begin_anew(tmp_path: Path, reviews: list[str], without_runs: Any) -> None:
    found = [p for p in points() if p.name.startswith("clean:")][:1]
    runs = without_runs(Runs())
    for changed in ((), ("clean.remove_urls=false",), ("clean.remove_urls=false",)):
        assert tried(tmp_path / "drill", reviews, found, *changed)[0].holds
    assert runs.started == 2 * 3


def test_a_digest_that_differs_fails_the_certificate_and_keeps_the_place(
    tmp_path: Path, reviews: list[str], without_runs: Any
) -> None:
    without_runs(Runs("other"))
    found = [p for p in points() if p.name == "clean:after-run"]
    certificate, said = tried(tmp_path / "drill", reviews, found)
    assert not certificate.holds
    assert "another digest than the reference's: clean" in said
    assert (tmp_path / "drill" / "points" / "clean_after-run" / "summary.json").exists()
    assert json.loads((tmp_path / "drill" / "certificate.json").read_text())["holds"] is False


def test_what_a_deployment_lacks_is_skipped_with_the_reason(
    tmp_path: Path, reviews: list[str], without_runs: Any
) -> None:
    without_runs(Runs())
    names = ("clean:after-run", "pack-tokens:after-run", "bucket:killed", "ray:raylet:clean")
    found = [p for p in points() if p.name in names]
    certificate, _ = tried(tmp_path / "drill", reviews, found, "ray.address=10.0.0.1:6379")
    reasons = {r.point: r.reason for r in certificate.results if r.skipped}
    assert reasons == {
        "pack-tokens:after-run": "these settings make no pack-tokens",
        "bucket:killed": "the deployment has no bucket (storage.remote)",
        "ray:raylet:clean": "Ray is a cluster, whose processes the drill must not kill",
    }
    assert certificate.totals["skipped"] == 3


def test_copies_are_links_and_leave_the_reference_as_it_is(tmp_path: Path) -> None:
    reference, place = Place(tmp_path / "a"), Place(tmp_path / "b")
    snapshot = made(reference.store, stage="clean")
    made(reference.store, stage="split")
    place.copy(reference.store, without={"split"})
    assert {s.stage for s in place.store} == {"clean"}
    assert place.store.find("clean", snapshot.key) is not None
    assert {s.stage for s in SnapshotStore(reference.data / "snapshots")} == {"clean", "split"}


def test_a_folder_with_other_files_is_no_place_for_a_drill(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "mine.csv").write_text("1")
    with pytest.raises(UserError, match="not a drill's"):
        command.claim(tmp_path)
    for _ in range(2):  # a new one, and its own
        command.claim(tmp_path / "drill")
    assert (tmp_path / "results" / "mine.csv").exists()


def test_results_hold_for_the_code_that_they_were_made_with(
    tmp_path: Path, reviews: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings()
    known = plan.plan_digest(settings, reviews)
    assert plan.plan_digest(settings, reviews) == known
    read = plan.file_sha256
    monkeypatch.setattr(plan, "file_sha256", lambda path: "new" if path.name == "store.py" else read(path))
    assert plan.plan_digest(settings, reviews) != known

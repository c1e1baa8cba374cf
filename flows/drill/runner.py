"""Run a drill: one undisturbed run for reference, then each fault point on a copy of what that left.

FOLDER/plan.json        what is drilled: settings, input, code; another plan begins anew
FOLDER/reference/       the undisturbed run
FOLDER/results/*.json   a result each; a point that has one is not tried again
FOLDER/points/NAME/     the place of a point that failed, kept for a look
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from subprocess import SubprocessError
from tempfile import mkdtemp

import psutil

from flows.drill.armed import Armed
from flows.drill.databases import new_database
from flows.drill.place import Place, is_whole, orphans
from flows.drill.plan import FIXED, SMALL, is_optional, plan_digest
from flows.drill.points import Point
from flows.drill.processes import Ended, Process, fork, import_all, run, spawn
from flows.drill.result import Evidence, Result, judged, last_line
from flows.drill.scenes import Scene
from flows.drill.servers import PrefectServer
from tasks.core.errors import RunError
from tasks.core.whole_files import write_whole
from tasks.settings import Settings, load_settings

LAST = "report"  # the last stage of a whole run


@dataclass
class Drill:
    """What is drilled, and where. `arguments`: of `raymill run`, such as --input. `limit_s`: of one run."""

    folder: Path
    arguments: Sequence[str]
    overrides: Sequence[str]
    limit_s: float
    profile: str | None = None
    forks: bool = True  # runs are forks of this process, which then must have no threads
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def overriding(self) -> list[str]:
        return [*SMALL, *self.overrides, *FIXED]

    def settings(self, place: Place) -> Settings:
        return load_settings(profile=self.profile, overrides=[*self.overriding, *place.settings])

    @property
    def reference(self) -> Place:
        return Place(self.folder / "reference")

    # -- results -----------------------------------------------------------------------------------------------------

    def result_file(self, point: Point) -> Path:
        return self.folder / "results" / f"{_file_name(point.name)}.json"

    def result(self, point: Point) -> Result | None:
        """Return the result of an earlier call; None if there is none."""
        with suppress(OSError, ValueError, TypeError):
            return Result(**json.loads(self.result_file(point).read_text()))
        return None

    def is_settled(self, point: Point) -> bool:
        """Tell whether a point has a result that still holds; what was skipped may be possible by now."""
        result = self.result(point)
        return result is not None and (not result.skipped or result.reason == self.skipped(point))

    def plan(self) -> bool:
        """Write down what is drilled, and remove the results of another plan; return whether it is the earlier one."""
        settings = load_settings(profile=self.profile, overrides=self.overriding)
        file, plan = self.folder / "plan.json", json.dumps({"plan": plan_digest(settings, self.arguments)})
        if file.exists() and file.read_text() == plan:
            return True
        for name in ("reference", "results", "points"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, plan)
        return False

    # -- runs --------------------------------------------------------------------------------------------------------

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Run the drill's own Prefect server, and give Ray a folder of its own, with a short name for its sockets."""
        self.folder.mkdir(parents=True, exist_ok=True)
        server, temporary = PrefectServer(self.folder), Path(mkdtemp(prefix="rd", dir="/tmp"))
        for number in (signal.SIGTERM, signal.SIGINT):
            # So that mounts and servers end with the drill; and a shell's background jobs ignore SIGINT, as runs would.
            signal.signal(number, signal.default_int_handler)
        try:
            server.start()
            self.variables = {
                "PREFECT_API_URL": server.api,
                "PREFECT_HOME": str(self.folder / "prefect"),
                "PREFECT_LOGGING_LEVEL": "CRITICAL",
                "RAYMILL_SERVICES_DIR": str(self.folder / "services"),
                "RAY_TMPDIR": str(temporary),
                "COLUMNS": "200",
            }
            if self.forks:
                os.environ.update(self.variables)  # Prefect reads them when it is imported
                import_all()
            yield
        finally:
            server.kill()
            shutil.rmtree(temporary, ignore_errors=True)

    def refer(self, points: Sequence[Point]) -> None:
        """Make the reference run that these points need, unless it is there. Raises RunError if it fails.

        Points of one stage need no later ones.
        """
        place, wanted = self.reference, {point.stage for point in points}
        until = wanted.pop() if len(wanted) == 1 else ""
        if is_optional(until, self.settings(place)):
            until = ""
        if {until or LAST, LAST} & {row["stage"] for row in place.summary.get("stages", ())}:
            return
        place.root.mkdir(parents=True, exist_ok=True)
        if not (place.root / "mlflow.db").exists():
            new_database(place.root / "mlflow.db")
        ended = self._run(place, Scene(), until, limit_s=10 * self.limit_s)
        if ended.status != 0:
            raise RunError(
                f"the undisturbed run failed: {last_line(ended.said)}",
                where=str(place.root),
                fix=f"see {place.root / 'said.txt'}: a drill begins with a run that succeeds",
            )

    def _run(self, place: Place, scene: Scene, until: str, *, armed: Armed | None = None, limit_s: float = 0) -> Ended:
        """Run until this stage ("": all); with the fault, if `armed`."""
        words = [*self.arguments, *(["--until", until] if until else [])]
        command = place.run([*words, *self._profile], [*self.overriding, *place.settings, *scene.settings])
        said = place.root / ("said-struck.txt" if armed else "said.txt")
        return self._start(command, said, scene, armed, limit_s)

    def _start(
        self, command: Sequence[str], said: Path, scene: Scene, armed: Armed | None = None, limit_s: float = 0
    ) -> Ended:
        variables = {**self.variables, **scene.variables, **(armed.variables if armed else {})}
        around = scene.around if armed else []

        def start() -> Process:
            if around or scene.variables or not self.forks:
                return spawn(command, said, variables, around)
            return fork(command, said, variables)

        ended = run(start, said, limit_s or self.limit_s, armed or (lambda _: None))
        self._forget_ray()
        return ended

    @property
    def _profile(self) -> list[str]:
        return ["--profile", self.profile] if self.profile else []

    def _forget_ray(self) -> None:
        """Remove what Ray's sessions have logged: tens of megabytes each."""
        if temporary := self.variables.get("RAY_TMPDIR"):
            for path in Path(temporary).iterdir():
                shutil.rmtree(path, ignore_errors=True)

    # -- points ------------------------------------------------------------------------------------------------------

    def skipped(self, point: Point) -> str:
        """Return why a point cannot be tried here; "" if it can."""
        settings = load_settings(profile=self.profile, overrides=self.overrides)  # what the deployment has
        stages = {row["stage"] for row in self.reference.summary.get("stages", ())}  # none: it was interrupted
        if stages and point.stage and point.stage not in stages:
            return f"these settings make no {point.stage}"
        return next((reason for need in point.needs if (reason := need(settings))), "")

    def strike(self, point: Point) -> Result:
        """Let the fault happen, run again, judge; keep the result."""
        if reason := self.skipped(point):
            result = Result(point.name, "skipped", reason)
        else:
            place = Place(self.folder / "points" / _file_name(point.name), self._bytes(point.stage))
            place.clear()
            try:
                result = judged(point.name, self._evidence(point, place))
            except (OSError, RunError, SubprocessError, psutil.Error) as error:
                result = Result(point.name, "failed", f"the drill itself: {error}".splitlines()[0])
            if result.passed:
                shutil.rmtree(place.root, ignore_errors=True)
        file = self.result_file(point)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(result.to_json(), indent=1))
        return result

    def _bytes(self, stage: str) -> int:
        """Return the size of the reference's output of a stage."""
        return sum(e.size for s in self.reference.store if s.stage == stage for e in s.manifest.files)

    def _evidence(self, point: Point, place: Place) -> Evidence:
        new_database(place.root / "mlflow.db")
        place.copy(self.reference.store, without={point.stage, *point.afresh})
        with point.scene(place) as scene:
            armed = Armed(point, place, scene)
            first = self._run(place, scene, point.stage, armed=armed)
            struck = place.marker.exists() or (scene.always and first.status != 0)
            seen = Evidence(struck, place.marker.stat().st_mtime if place.marker.exists() else first.at, first, None)
            if not struck or first.status is None:
                return seen
            scene.heal()
            again = self._run(place, scene, point.stage)
            return self._examined(point, place, scene, seen, again)

    def _examined(self, point: Point, place: Place, scene: Scene, seen: Evidence, again: Ended) -> Evidence:
        said, expected = place.summary, self.reference.summary
        compared = [row for row in said.get("stages", ()) if not (point.afresh and row["stage"] == "report")]
        settings = (*self.overriding, *place.settings, *scene.settings)
        gc = ["gc", *self._profile, *(f"--set={setting}" for setting in settings)]
        cleaned = self._start(gc, place.root / "said-gc.txt", scene)
        keys = {row["key"] for row in compared}
        return Evidence(
            struck=seen.struck,
            struck_at=seen.struck_at,
            first=seen.first,
            again=again if again.status != 0 else replace(again, status=cleaned.status),
            rows=compared,
            expected={row["stage"]: row for row in expected["stages"]},
            role=_role(said),
            expected_role=_role(expected) if "decision" in said else "",
            unrecorded=said.get("unrecorded", ()),
            orphan_bytes=sum(path.stat().st_size for path in orphans(place.store)),
            damaged=[s.stage for s in place.store if s.key in keys and not is_whole(s)],
        )


def _role(summary: dict[str, object]) -> str:
    """Return the version and role of a summary's model, as in "version 1 is challenger"; "" if none was decided on."""
    return str(summary.get("decision") or "").partition(":")[0]


def _file_name(point: str) -> str:
    return re.sub(r"[^\w-]+", "_", point)

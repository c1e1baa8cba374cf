"""The outcome of one fault point, judged from two runs and what they left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flows.drill.processes import Ended

PASSED = ("resumed", "survived")


@dataclass(frozen=True)
class Result:
    """`outcome`: resumed (the next run went on), survived (the struck run did), skipped, or what went wrong.

    recovery_s: until the stage was done again: of the next run, or in the struck run from the fault on.
    """

    point: str
    outcome: str
    reason: str = ""
    recovery_s: float = 0.0
    orphan_bytes: int = 0
    rows_lost: int = 0
    rows_repeated: int = 0
    seconds: float = 0.0
    said: str = ""  # the struck run's last line

    @property
    def passed(self) -> bool:
        return self.outcome in PASSED

    @property
    def skipped(self) -> bool:
        return self.outcome == "skipped"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Evidence:
    """What was seen at a fault point.

    struck: whether the fault happened, and when (time.time(), 0: unknown). rows, expected: the stages' rows in the
    last run's and the reference's summary. orphan_bytes: left by `gc`. damaged: stages whose files are not whole.
    """

    struck: bool
    struck_at: float
    first: Ended
    again: Ended | None
    rows: Sequence[Mapping[str, Any]] = ()
    expected: Mapping[str, Mapping[str, Any]] | None = None
    role: str = ""
    expected_role: str = ""
    unrecorded: Sequence[str] = ()
    orphan_bytes: int = 0
    damaged: Sequence[str] = ()


def judged(point: str, seen: Evidence) -> Result:
    """Judge the evidence: the first thing that is wrong names the outcome."""
    lost, repeated = rows_off(seen)
    outcome, reason = _outcome(seen, lost, repeated)
    survived = seen.first.status == 0
    recovery = seen.first.at - seen.struck_at if survived else seen.again.seconds if seen.again else 0.0
    return Result(
        point=point,
        outcome=outcome,
        reason=reason,
        recovery_s=round(max(0.0, recovery), 1),
        orphan_bytes=seen.orphan_bytes,
        rows_lost=lost,
        rows_repeated=repeated,
        seconds=round(seen.first.seconds + (seen.again.seconds if seen.again else 0.0), 1),
        said=last_line(seen.first.said),
    )


def _outcome(seen: Evidence, lost: int, repeated: int) -> tuple[str, str]:
    if seen.first.status is None:
        return "hang", f"the struck run was still there after {seen.first.seconds:.0f} s"
    if not seen.struck:
        return "not reached", last_line(seen.first.said)
    if seen.again is None or seen.again.status is None:
        return "hang", "the next run did not end" if seen.again else "there was no next run"
    if seen.again.status != 0:
        return "failed", last_line(seen.again.said)
    if lost or repeated:
        return "rows", f"{lost:,} lost, {repeated:,} repeated"
    if differing := [row["stage"] for row in seen.rows if _differs(row, seen.expected or {})]:
        return "differs", f"another digest than the reference's: {', '.join(differing)}"
    if not seen.rows:
        return "failed", "the next run's summary is missing"
    if seen.role != seen.expected_role:
        return "differs", f"the model is {seen.role or 'not registered'}, not {seen.expected_role}"
    if seen.damaged:
        return "damaged", f"files are not as committed: {', '.join(seen.damaged)}"
    if seen.unrecorded:
        return "unrecorded", f"MLflow was not told of {', '.join(seen.unrecorded)}"
    if seen.orphan_bytes:
        return "orphans", f"{seen.orphan_bytes:,} bytes that gc leaves"
    return ("survived" if seen.first.status == 0 else "resumed"), ""


def _differs(row: Mapping[str, Any], expected: Mapping[str, Mapping[str, Any]]) -> bool:
    return bool(row["digest"]) and row["digest"] != expected.get(row["stage"], {}).get("digest")


def rows_off(seen: Evidence) -> tuple[int, int]:
    """Count rows lost and repeated: of rows in, out + rejected + repeated, beside the reference's."""
    lost = repeated = 0
    for row in seen.rows:
        if row["unit"] == "rows" and (before := (seen.expected or {}).get(row["stage"])):
            off = _unbalanced(row) - _unbalanced(before)
            lost, repeated = lost + max(0, -off), repeated + max(0, off)
    return lost, repeated


def _unbalanced(row: Mapping[str, Any]) -> int:
    return int(row["rows"] + row["rejected"] + row["repeated"] - row["rows_in"])


def last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""

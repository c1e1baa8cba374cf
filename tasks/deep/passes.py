"""The order of a pipeline stage's work. No import of torch: arithmetic of schedules needs it, too."""

from __future__ import annotations

FORWARD, BACKWARD = "forward", "backward"


def passes(schedule: str, stage: int, stages: int, micro_batches: int) -> list[tuple[str, int]]:
    """Return a stage's passes, each with the number of its micro-batch: of "gpipe", all forward, then all backward; of
    "1f1b" as many forward as there are stages from here on, then backward and forward in turn."""
    forward, backward = ([(kind, i) for i in range(micro_batches)] for kind in (FORWARD, BACKWARD))
    first = micro_batches if schedule == "gpipe" else min(micro_batches, stages - stage)
    in_turn = [one for pair in zip(backward, forward[first:], strict=False) for one in pair]
    return [*forward[:first], *in_turn, *backward[micro_batches - first :]]

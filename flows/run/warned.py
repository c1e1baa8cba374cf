"""Show a run's warnings: what its validations found that fails no stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flows.run.record import RunRecord

SHOWN = 20  # warnings in one message


def line(warned: Mapping[str, str]) -> str:
    """Say a warning in one line: stage, expectation, what was found, and the limit."""
    return "{stage}: {expectation}: {value}; limit: {limit}".format(**warned)


def lines(warnings: Sequence[Mapping[str, str]], shown: int = SHOWN) -> list[str]:
    """Say the first `shown` warnings, one a line, and how many more there are."""
    more = len(warnings) - shown
    return [*(line(warned) for warned in warnings[:shown]), *([f"and {more} more"] if more > 0 else [])]


def to_prefect(record: RunRecord) -> None:
    """Add a table of the run's warnings to its page in Prefect, if there are any. A server that is down is told."""
    if not record.warnings:
        return
    from prefect.artifacts import create_table_artifact

    try:
        create_table_artifact(
            key="warnings", table=[dict(warned) for warned in record.warnings], description="What validation warns of"
        )
    except Exception as error:  # the run has ended in its own way
        from prefect.logging import get_logger

        get_logger("raymill").warning("no artifact of the warnings: %s", type(error).__name__)

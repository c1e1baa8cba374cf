"""Stages as Prefect tasks: retries for transient faults only, ever longer apart, a timeout, a readable name.

Prefect's cache and result store are off: the snapshot store decides what is reused.
"""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import wait

from flows.run.context import current
from tasks.core.errors import TransientError
from tasks.core.sections import RetriesConfig
from tasks.core.snapshots import Snapshot
from tasks.core.stage import Stage
from tasks.engines import cluster


class StageTask:
    """A stage as a Prefect task: call it as stage(inputs..., config)."""

    def __init__(self, stage: Stage) -> None:
        @task(
            name=stage.name,
            task_run_name=stage.name,
            retry_condition_fn=_worth_a_retry,
            timeout_seconds=stage.timeout_s,
            cache_policy=NO_CACHE,
            persist_result=False,
        )
        def run_stage_task(inputs: tuple[Any, ...], config: Any) -> Snapshot:
            return current().execute(stage, inputs, config)

        self.name, self.retries, self.task = stage.name, stage.retries, run_stage_task

    def under(self, config: RetriesConfig) -> Any:
        """The Prefect task, with the retries that the settings want."""
        times = self.retries if config.times is None else config.times
        return self.task.with_options(
            retries=times, retry_delay_seconds=config.delays(times), retry_jitter_factor=config.jitter or None
        )

    def __call__(self, *arguments: Any) -> Snapshot:
        snapshot: Snapshot = self.under(current().settings.retries)(arguments[:-1], arguments[-1])
        current().stop_after(self.name)
        return snapshot


def together(*calls: tuple[Any, ...]) -> list[Snapshot]:
    """Run stages side by side, each given as (stage task, inputs..., config); returns their snapshots.

    When all have ended, the first failure in order is raised. What comes after the last stage wanted is left out.
    """
    run = current()
    names = [call[0].name for call in calls]
    wanted = calls[: names.index(run.last) + 1] if run.last in names else calls
    futures = [
        stage_task.under(run.settings.retries).submit(tuple(inputs), config) for stage_task, *inputs, config in wanted
    ]
    wait(futures)
    snapshots = [future.result() for future in futures]
    for name in names:
        run.stop_after(name)
    return snapshots


def _worth_a_retry(_task: Any, _run: Any, state: Any) -> bool:
    """Transient faults alone: a wrong input stays wrong however often it is read."""
    try:
        state.result()
    except (TransientError, ConnectionError, TimeoutError):
        return True
    except BaseException as error:
        return cluster.is_lost(error)
    return False

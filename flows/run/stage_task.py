"""Stages as Prefect tasks: retries for transient faults only, ever longer apart, a timeout, a readable name.

Prefect's cache and result store are off: the snapshot store decides what is reused.
"""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import wait

from flows.run.context import Run, current
from tasks.core.errors import TransientError
from tasks.core.sections import RetriesConfig
from tasks.core.snapshots import Snapshot
from tasks.core.stage import Stage
from tasks.engines import cluster
from tasks.stages import declared_stages


class StageTask:
    """A stage as a Prefect task: call it as stage(inputs...). The run's settings give it its section."""

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

        self.name, self.stage, self.retries, self.task = stage.name, stage, stage.retries, run_stage_task

    def under(self, config: RetriesConfig) -> Any:
        """The Prefect task, with the retries that the settings want."""
        times = self.retries if config.times is None else config.times
        return self.task.with_options(
            retries=times,
            retry_delay_seconds=config.delays(times),
            retry_jitter_factor=config.jitter or None,  # type: ignore[arg-type]  # None: no jitter
        )

    def __call__(self, *inputs: Any) -> Any:
        """Return the stage's snapshot; None, which the stages after it pass on, where the run is over."""
        run = current()
        return None if run.over else self.under(run.settings.retries)(inputs, self.section_of(run))

    def section_of(self, run: Run) -> Any:
        """Return the stage's own settings, and no others."""
        return getattr(run.settings, self.stage.section)


class StageTasks:
    """The declared stages as Prefect tasks: `stages.clean(raw)`."""

    def __getattr__(self, name: str) -> StageTask:
        try:
            found = declared_stages()[name.replace("_", "-")]
        except KeyError:
            raise AttributeError(f"no stage {name!r} is declared in tasks/stages") from None
        made = self.__dict__[name] = StageTask(found)
        return made


def together(*calls: tuple[Any, ...]) -> list[Any]:
    """Run stages side by side, each given as (stage task, inputs...); return their snapshots, or None, as each would.

    When all have ended, the first failure in order is raised. What comes after the last stage wanted is left out.
    """
    run = current()
    names = [call[0].name for call in calls]
    wanted = () if run.over else calls[: names.index(run.last) + 1] if run.last in names else calls
    for stage_task, *_ in wanted:
        run.expect(stage_task.name)
    futures = [
        stage_task.under(run.settings.retries).submit(tuple(inputs), stage_task.section_of(run))
        for stage_task, *inputs in wanted
    ]
    wait(futures)
    snapshots = [future.result() for future in futures]
    return [*snapshots, *[None] * (len(calls) - len(wanted))]


def _worth_a_retry(_task: Any, _run: Any, state: Any) -> bool:
    """Transient faults alone: a wrong input stays wrong however often it is read."""
    try:
        state.result()
    except (TransientError, ConnectionError, TimeoutError):
        return True
    except BaseException as error:
        return cluster.is_lost(error)
    return False

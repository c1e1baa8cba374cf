"""Stages as Prefect tasks, with a timeout, a readable name, and retries after growing delays for transient faults only.

Prefect's cache and result store are off: the snapshot store decides what is reused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextvars import copy_context
from functools import partial
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.run.context import Run, current
from tasks.core.errors import TransientError
from tasks.core.sections import RetriesConfig
from tasks.core.snapshots import Snapshot
from tasks.core.stage import Stage
from tasks.engines import cluster, ray_private
from tasks.stages import declared_stages

# Between two looks at stages side by side. A thread that waits without end gets no Ctrl-C once Polars is imported: its
# handler of SIGINT lets the kernel restart what was interrupted.
POLL_S = 0.2


class StageTask:
    """A stage as a Prefect task: call it as stage(inputs...). It gets its section of the run's settings."""

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
        """Return the Prefect task with the retries of the settings."""
        times = self.retries if config.times is None else config.times
        return self.task.with_options(
            retries=times,
            retry_delay_seconds=config.delays(times),
            retry_jitter_factor=config.jitter or None,  # type: ignore[arg-type]  # None: no jitter
        )

    def __call__(self, *inputs: Any) -> Any:
        """Return the stage's snapshot; None if the run is over, which later stages pass on."""
        run = current()
        return None if run.over else self.under(run.settings.retries)(inputs, self.section_of(run))

    def section_of(self, run: Run) -> Any:
        """Return the stage's own section of the settings."""
        return getattr(run.settings, self.stage.section)


class StageTasks:
    """The declared stages as Prefect tasks: `stages.clean(raw)`."""

    def __getattr__(self, name: str) -> StageTask:
        try:
            stage = declared_stages()[name.replace("_", "-")]
        except KeyError:
            raise AttributeError(f"no stage {name!r} is declared in tasks/stages") from None
        stage_task = self.__dict__[name] = StageTask(stage)
        return stage_task


def together(*calls: tuple[Any, ...]) -> list[Any]:
    """Run stages in parallel, each given as (stage task, inputs...); return the snapshot of each, None if skipped.

    When all have ended, the first failure in order is raised. Stages after the last requested one are skipped. An
    interrupt is raised at once: the stages go on to the end of this process at most.
    """
    run = current()
    names = [call[0].name for call in calls]
    requested = () if run.over else calls[: names.index(run.last) + 1] if run.last in names else calls
    for stage_task, *_ in requested:
        run.expect(stage_task.name)
    try:
        futures = [
            beside(partial(stage_task.under(run.settings.retries), tuple(inputs), stage_task.section_of(run)))
            for stage_task, *inputs in requested
        ]
        while wait(futures, POLL_S).not_done:
            pass
    except BaseException:
        run.ended = "interrupted"
        ray_private.end_trainings()
        raise
    snapshots = [future.result() for future in futures]
    return [*snapshots, *[None] * (len(calls) - len(requested))]


def beside(call: Callable[[], Any]) -> Future[Any]:
    """Call in a thread of its own, which does not keep the process from ending: Prefect's would, for hours maybe."""
    future: Future[Any] = Future()
    context = copy_context()

    def work() -> None:
        try:
            future.set_result(context.run(call))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="stage", daemon=True).start()
    return future


def _worth_a_retry(_task: Any, _run: Any, state: Any) -> bool:
    """Tell whether a task failed by a transient fault: a wrong input would fail again."""
    try:
        state.result()
    except (TransientError, ConnectionError, TimeoutError):
        return True
    except BaseException as error:
        return cluster.is_lost(error)
    return False

"""Which faults are retried, how often, and after which delays: an overloaded server must not be asked ever faster."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.states import State, StateType
from prefect.utilities.math import clamped_poisson_interval
from ray.exceptions import ActorDiedError, WorkerCrashedError

from flows.run.stage_task import StageTask, _worth_a_retry
from tasks.core.errors import InputError, RowsLost, SettingsError, TransientError, ValidationFailed
from tasks.core.sections import RetriesConfig
from tasks.core.stage import stage
from tasks.settings import load_settings

DEFAULT = load_settings().retries


@stage(version=1, config=RetriesConfig, retries=2)
def toy(config: Any, out: Any) -> None:
    pass


def failed(error: BaseException) -> Any:
    def result() -> None:
        raise error

    return SimpleNamespace(result=result)


@pytest.mark.parametrize(
    "error", [TransientError("lost"), ConnectionResetError(), TimeoutError(), ActorDiedError(), WorkerCrashedError()]
)
def test_what_may_pass_is_tried_again(error: BaseException) -> None:
    assert _worth_a_retry(None, None, failed(error))


@pytest.mark.parametrize(
    "error",
    [
        InputError("no such file"),
        SettingsError("unknown"),
        ValidationFailed("null"),
        RowsLost("1"),
        ValueError(),
        OSError(28, "No space left on device"),
        KeyboardInterrupt(),
    ],
)
def test_what_stays_wrong_is_not(error: BaseException) -> None:
    assert not _worth_a_retry(None, None, failed(error))


def test_prefect_asks_for_every_failure() -> None:
    task = StageTask(toy).under(DEFAULT)
    assert task.retry_condition_fn is _worth_a_retry
    assert not task.retry_condition_fn(task, None, State(type=StateType.FAILED, data=InputError("wrong")))


def test_each_delay_is_a_multiple_of_the_one_before_up_to_a_limit() -> None:
    task = StageTask(toy).under(DEFAULT)
    assert (task.retries, task.retry_delay_seconds, task.retry_jitter_factor) == (2, [5.0, 25.0], 0.3)
    delays = RetriesConfig(times=6, first_delay_s=1, factor=3, max_delay_s=20, jitter=0).delays(6)
    assert delays == [1, 3, 9, 20, 20, 20]


@given(
    st.builds(
        RetriesConfig,
        times=st.none(),
        first_delay_s=st.floats(0.1, 100),
        factor=st.floats(1, 10),
        max_delay_s=st.floats(0.1, 1000),
        jitter=st.floats(0.05, 1),
    )
)
def test_no_delay_is_longer_than_the_limit_whatever_chance_makes_of_it(config: RetriesConfig) -> None:
    for delay in config.delays(8):
        waited = [clamped_poisson_interval(delay, clamping_factor=config.jitter) for _ in range(20)]
        assert max(waited) <= config.max_delay_s * 1.000001


def test_the_settings_decide_how_often() -> None:
    assert StageTask(toy).under(DEFAULT.model_copy(update={"times": 0})).retries == 0
    four = StageTask(toy).under(DEFAULT.model_copy(update={"times": 4, "jitter": 0.0}))
    assert (four.retries, four.retry_delay_seconds) == (4, [5.0, 25.0, 125.0, 300.0])
    assert four.retry_jitter_factor is None

"""The study: Optuna's record of a search's trials, in a file of its own or in a database that machines share.

Everything known of a trial is in the study as soon as it ends, so a search that was killed, or one that another
machine began, goes on from there. A suggestion depends on the seed, on how many trials came before and on what they
found, and on nothing else: a search of one trial at a time that is taken up makes the trials of one that was never
interrupted.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from tasks.core.errors import RunError, SettingsError, TransientError
from tasks.core.secrets import masked
from tasks.stages.tune.settings import TuneConfig
from tasks.stages.tune.suggestions import Suggestions, combinations, distribution, forecast, in_order, one_thread

DOUBTFUL = 0.05  # a trial that becomes the best one with no more than this probability is stopped
HEARTBEAT_S, GRACE_S = 20, 120  # a trial whose machine was not heard of for so long is taken to be lost
STATUS = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}


@dataclass(frozen=True)
class Ended:
    """A trial that ended with a loss. `curve`: validation loss after each round. `best_round` counts from 0."""

    params: dict[str, Any]
    status: str
    curve: list[float]

    @property
    def best_round(self) -> int:
        return min(range(len(self.curve)), key=self.curve.__getitem__)

    @property
    def loss(self) -> float:
        return self.curve[self.best_round]


class Study:
    """One search's trials. `wanted`: how many are to end, at most those of the grid.

    `name` must differ between searches of another space, other data or other code: studies in one database are told
    apart by it alone.
    """

    def __init__(self, config: TuneConfig, name: str, file: Path) -> None:
        self.config = config
        self.shared = config.storage is not None
        self.url = config.storage.get_secret_value() if config.storage else f"sqlite:///{file}"
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.distributions = {name: distribution(axis) for name, axis in config.axes.items()}
        grid = combinations(config) if config.algorithm == "grid" else None
        self.wanted = min(config.trials, len(grid)) if grid else config.trials
        self.storage = open_storage(self.url, self.shared)
        # Heard of before anything else is known of it: a trial that is lost while it is thought of is given up, too.
        began = self.storage.record_heartbeat if self.shared else lambda _trial: None
        sampler = Suggestions(config, grid, began)
        self.record = optuna.create_study(storage=self.storage, study_name=name, load_if_exists=True, sampler=sampler)
        if self.shared:
            self.study = self.record
        else:
            # Some twenty writes per trial take 70 ms of CPU from the trials; of a trial that has ended it is one.
            self.study = optuna.create_study(sampler=sampler)
            self.study.add_trials(self.record.trials)
        self.live: dict[str, optuna.Trial] = {}
        self.fail_lost()

    def fail_lost(self) -> None:
        """Give up the trials of machines that were not heard of for long; others take their place."""
        if self.shared:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # heartbeats count as experimental
                optuna.storages.fail_stale_trials(self.study)

    def taken(self) -> list[FrozenTrial]:
        """The first `wanted` trials that ended or are being worked on here or elsewhere, in their order."""
        return in_order(self.study)[: self.wanted]

    def missing(self) -> int:
        return self.wanted - len(self.taken())

    def ended(self) -> list[Ended]:
        """Those of the `wanted` trials that have ended, in the order in which they began."""
        return [Ended(t.params, STATUS[t.state], t.user_attrs["curve"]) for t in self.taken() if t.state in STATUS]

    def ask(self, label: str) -> dict[str, Any]:
        """The parameters of a new trial, which is known here by its label until it has ended."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # heartbeats are said to be for Study.optimize: `beating` sends them
            trial = self.study.ask(self.distributions)
        self.live[label] = trial
        return trial.params

    def report(self, label: str, loss: float, rounds: int) -> None:
        """The least loss of a trial that goes on, after so many rounds: suggestions go by it, and what is stopped."""
        self.live[label].report(loss, rounds)

    def promising(self, label: str) -> bool:
        """Whether a trial that has reported may still become the best one; before any has ended by itself all may."""
        this, known = self.live[label].number, in_order(self.study)
        if not any(t.state == TrialState.COMPLETE for t in known) or all(t.number != this for t in known):
            return True
        with one_thread():
            return forecast(self.config, known).chance(this) > DOUBTFUL

    def tell(self, label: str, curve: Sequence[float], *, whole: bool) -> None:
        """A trial has ended, by itself (`whole`) or because of others."""
        trial = self.live.pop(label)
        trial.set_user_attr("curve", list(curve))
        if whole:
            self._tell(trial, min(curve))
        else:
            self._tell(trial, state=TrialState.PRUNED)

    def fail(self, label: str) -> None:
        """A trial has ended without a loss: another takes its place."""
        self._tell(self.live.pop(label), state=TrialState.FAIL)

    def _tell(self, trial: optuna.Trial, value: float | None = None, state: TrialState | None = None) -> None:
        ended = self.study.tell(trial, value, state)
        if self.record is not self.study:
            self.record.add_trial(ended)

    def failed(self) -> int:
        return len(self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,)))

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Raise TransientError where the database fails in the block: the trials that ended are kept in it."""
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
            raise TransientError(
                f"the database of the study failed: {_hidden(error.__cause__ or error, self.url)}",
                where=self.url,
                fix="see that it is up, and start again: the search goes on from the trials that ended",
            ) from None

    def close(self) -> None:
        """Give up the trials that are still running, and let go of the database."""
        with suppress(Exception):  # whatever stopped the search is the error to tell
            for label in list(self.live):
                self.fail(label)
        self.storage.engine.dispose()

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Tell the other machines, while the block runs, that the trials here are being worked on."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(HEARTBEAT_S):
                for trial in list(self.live.values()):
                    try:
                        self.storage.record_heartbeat(trial._trial_id)
                    except Exception:  # the database is away: the next request of the search itself says so
                        break

        thread = threading.Thread(target=beat, name="study-heartbeat", daemon=True)
        if self.shared:
            thread.start()
        try:
            yield
        finally:
            done.set()
            if self.shared:
                thread.join()


def open_storage(url: str, shared: bool) -> Any:
    """Optuna's tables at this URL, made if they are not there. Raises SettingsError or RunError, password masked."""
    from sqlalchemy import event
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    beats: dict[str, Any] = {"heartbeat_interval": HEARTBEAT_S, "grace_period": GRACE_S} if shared else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            storage = optuna.storages.RDBStorage(url, skip_table_creation=False, **beats)
        except ImportError as error:
            reason = f"{error} (no driver for this database)"
            raise SettingsError(
                _hidden(reason, url),
                where=f"tune.storage={url}",
                fix="for PostgreSQL: pip install 'psycopg[binary]'",
            ) from None
        except (ValueError, ArgumentError) as error:
            raise SettingsError(
                _hidden(error, url), where=f"tune.storage={url}", fix="for example postgresql://user@host/name"
            ) from None
        except (SQLAlchemyError, OSError, RuntimeError) as error:
            raise RunError(
                f"the study cannot be opened: {_hidden(error, url)}",
                where=url,
                fix="check tune.storage, and that the database is up",
            ) from None
    if url.startswith("sqlite"):
        # A log, synced now and then: a crash of the machine may lose the last trials, and the file stays whole.
        def quick(connection: Any, _record: Any) -> None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")

        storage.engine.dispose()
        event.listen(storage.engine, "connect", quick)
    return storage


def _hidden(error: object, url: str) -> str:
    return masked(str(error).strip().splitlines()[0].replace(url, masked(url)))

"""Record a search's trials in an Optuna study, in a file of its own or in a database that machines share.

The study holds each trial as soon as it ends. So a search that was killed, or one that another machine began, continues
from there. A suggestion depends only on the seed, and on the number and the results of the earlier trials. So a search
of one trial at a time makes the same trials whether or not it was interrupted and resumed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from tasks.stages.tune import study_storage
from tasks.stages.tune.ended_trial import Ended
from tasks.stages.tune.settings import TuneConfig
from tasks.stages.tune.suggestions import Suggestions, combinations, distribution, forecast, in_order, one_thread

DOUBTFUL = 0.05  # a trial is stopped if its probability of becoming the best one is at most this
STATUS = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}


class Study:
    """The trials of one search. `wanted`: how many trials have to end, at most the size of the grid.

    given: the grid, if it is not that of all combinations. `name` alone identifies a study in a shared database, so it
    must differ if the space, the data or the code differ.
    """

    def __init__(
        self, config: TuneConfig, name: str, file: Path, given: Sequence[dict[str, Any]] | None = None
    ) -> None:
        self.config = config
        self.shared = config.storage is not None
        self.url = config.storage.get_secret_value() if config.storage else f"sqlite:///{file}"
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.distributions = {name: distribution(axis) for name, axis in config.axes.items()}
        grid = given or (combinations(config) if config.algorithm == "grid" else None)
        self.wanted = min(config.trials, len(grid)) if grid else config.trials
        self.storage = study_storage.open_storage(self.url, self.shared)
        # The first heartbeat precedes the suggestion, so that a trial lost while it is being suggested is failed, too.
        began = self.storage.record_heartbeat if self.shared else lambda _trial: None
        sampler = Suggestions(config, grid, began)
        self.record = optuna.create_study(storage=self.storage, study_name=name, load_if_exists=True, sampler=sampler)
        if self.shared:
            self.study = self.record
        else:
            # Trials stay in memory, and are written once they end: some twenty writes per trial take 70 ms of CPU.
            self.study = optuna.create_study(sampler=sampler)
            self.study.add_trials(self.record.trials)
        self.live: dict[str, optuna.Trial] = {}
        self.fail_lost()

    def fail_lost(self) -> None:
        """Fail the trials of machines whose heartbeats have stopped. Other trials take their place."""
        if self.shared:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Optuna calls heartbeats experimental
                optuna.storages.fail_stale_trials(self.study)

    def taken(self) -> list[FrozenTrial]:
        """Return the first `wanted` trials that have ended or are running, here or elsewhere, in their order."""
        return in_order(self.study)[: self.wanted]

    def missing(self) -> int:
        return self.wanted - len(self.taken())

    def ended(self) -> list[Ended]:
        """Return those of the first `wanted` trials that have ended, in the order in which they began."""
        return [Ended(t.params, STATUS[t.state], t.user_attrs["curve"]) for t in self.taken() if t.state in STATUS]

    def ask(self, label: str) -> dict[str, Any]:
        """Begin a trial and return its parameters. The label identifies it here until it has ended."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna sends heartbeats in Study.optimize only: `beating` sends them
            trial = self.study.ask(self.distributions)
        self.live[label] = trial
        return trial.params

    def report(self, label: str, loss: float, rounds: int) -> None:
        """Record a running trial's least loss after so many rounds, for suggestions and for stopping."""
        self.live[label].report(loss, rounds)

    def promising(self, label: str) -> bool:
        """Return whether a trial that has reported may still become the best one. Before any is complete, all may."""
        this, trials = self.live[label].number, in_order(self.study)
        if not any(t.state == TrialState.COMPLETE for t in trials) or all(t.number != this for t in trials):
            return True
        with one_thread():
            return forecast(self.config, trials).chance(this) > DOUBTFUL

    def tell(self, label: str, curve: Sequence[float], *, whole: bool) -> None:
        """Record a trial that has ended: complete (`whole`), or stopped because of others."""
        trial = self.live.pop(label)
        trial.set_user_attr("curve", list(curve))
        if whole:
            self._tell(trial, min(curve))
        else:
            self._tell(trial, state=TrialState.PRUNED)

    def fail(self, label: str) -> None:
        """Record a trial that has ended without a loss. Another trial takes its place."""
        self._tell(self.live.pop(label), state=TrialState.FAIL)

    def _tell(self, trial: optuna.Trial, value: float | None = None, state: TrialState | None = None) -> None:
        ended = self.study.tell(trial, value, state)
        if self.record is not self.study:
            self.record.add_trial(ended)

    def failed(self) -> int:
        return len(self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,)))

    def answering(self) -> AbstractContextManager[None]:
        """Raise TransientError if the database fails in the block. The trials that have ended stay in it."""
        return study_storage.answering(self.url)

    def close(self) -> None:
        """Fail the trials that are still running, and close the connections to the database."""
        with suppress(Exception):  # the error to report is the one that stopped the search
            for label in list(self.live):
                self.fail(label)
        self.storage.engine.dispose()

    def beating(self) -> AbstractContextManager[None]:
        """Send heartbeats of the running trials while the block runs, so that other machines do not fail them."""
        return study_storage.beating(self.storage, self.live) if self.shared else nullcontext()

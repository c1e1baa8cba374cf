"""What follows from the watch over scored reviews: nights are kept and told, late stars are joined, a run is started.

Nothing here fails a run: its predictions, or its model, are committed already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from flows.run import notify, retraining
from flows.run.context import Run
from flows.run.retraining import Cause
from flows.run.scoring import for_scoring
from flows.run.watched_nights import Night, change, keep, open_nights
from tasks.core.errors import TransientError
from tasks.core.secrets import masked
from tasks.core.snapshots import Snapshot
from tasks.core.storage.opening import open_store
from tasks.core.storage.store import SnapshotStore
from tasks.domain.losses import overall
from tasks.domain.targets import TARGETS
from tasks.engines import cluster, registry, tracking
from tasks.settings import Settings
from tasks.stages.watch.findings import EXPECTED, LEARNED, REALISED, excess, learned, numbers, realised_warnings
from tasks.stages.watch.realised import Realised, by_stars, realised_each
from tasks.stages.watch.settings import WatchConfig

EVENT = "drifted"
KINDS = {EXPECTED: "expected", REALISED: "realised"}  # of `retrain.when`, by a warning's expectation
Say = Callable[[str], None]


@contextmanager
def not_failing(say: Say, what: str) -> Iterator[None]:
    """Tell of an error in the block, and go on: what the run is for is committed already."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        say(f"{what}: {masked(reason)}")


def after_scoring(run: Run, read: Snapshot, scored: Snapshot, watched: Snapshot, say: Say) -> Night:
    """Keep the night, tell of its warnings, start training if they ask for it, and join stars with earlier nights."""
    root = run.root
    night = keep(root, Night.of(run.record, read, scored, watched))
    for line in night.found.get("told", ()):
        say(f"watch: {line}")
    act_on(run.settings, root, night, say)
    if night.mlflow_run != run.record.mlflow_run:  # scored before: that run's numbers are the night's
        _log(run, night, night.found, say)
    with not_failing(say, "watch: the stars of earlier nights were not joined"):
        settle(run, root, read, say, but=night.night)
    return night


def act_on(settings: Settings, root: Path, night: Night, say: Say, *, trains: bool = False) -> None:
    """Post a night's warnings, each once, and start training for those that `retrain.when` names.

    trains: this run trains itself, so no other is started.
    """
    with not_failing(say, "no notification of what the watch found"):
        change(root, night, partial(_told, settings=settings, say=say))
    for warned in night.warnings if not trains else ():
        if (kind := KINDS.get(warned["expectation"])) in settings.retrain.when:
            of = f"{night.model} version {night.version}, night {night.night}"
            text = f"{warned['expectation']} {warned['value']} of {of}"
            of_what = (night.model, str(night.dataset), str(night.target))
            cause = Cause(f"{kind}-{night.night}", str(kind), text, *of_what)
            with not_failing(say, f"no run is started for {text}"):
                if (champion := _champion(settings, night.model)) == night.version:
                    retraining.start(settings, root.parent, cause, say)
                else:
                    say(f"no run is started for {text}: the champion is version {champion or 'none'}")


def _champion(settings: Settings, model: str) -> str | None:
    uri = tracking.tracking_uri(settings.tracking)
    with tracking.reaching(uri):
        return registry.aliases(tracking.connect(uri), model).get(registry.CHAMPION)


def _told(night: Night, settings: Settings, say: Say) -> Night:
    """Post a night's warnings that were not yet; two processes must not do it at once."""
    new = [warned for warned in night.warnings if warned["expectation"] not in night.told]
    if not new:
        return night
    if problem := notify.send(settings, EVENT, message(night, new)):
        say(f"no notification of what the watch found: {problem}")
        return night
    return replace(night, told=(*night.told, *(warned["expectation"] for warned in new)))


def message(night: Night, warned: list[dict[str, str]]) -> dict[str, Any]:
    """Return the message about a night's warnings. Losses are in the target's metric."""
    first = "; ".join("{expectation} {value}, limit {limit}".format(**one) for one in warned)
    text = f"{night.model} version {night.version}, {night.rows:,} reviews: {first}"
    moved = [f"{name} ({effect:+.4f})" for name, effect in list(night.moved.items())[:3]]
    facts = {name: night.found.get(name) for name in ("reference_loss", "expected_loss", "realised_loss", "metric")}
    return {
        "text": "\n".join([text, *([f"More of: {', '.join(moved)}"] if moved else [])]),
        **facts,
        "model": night.model,
        "version": night.version,
        "night": night.night,
        "run_id": night.run_id,
        "rows": night.rows,
        "realised_rows": night.found.get("realised_rows"),
        "drifted": dict(night.drifted),
        "moved": dict(night.moved),
        "warnings": warned,
    }


def settle(run: Run, root: Path, rated: Snapshot, say: Say, but: str = "", *, trains: bool = False) -> None:
    """Join the stars of these reviews with the predictions of earlier nights that lack some.

    root: of the scoring runs. rated: a snapshot with `review_id`, `rating` and `timestamp`. but: a night to leave out.
    trains: the run has learned from these stars itself.
    """
    settings, target = run.settings, run.record.target
    waiting = [night for night in open_nights(root, (run.record.dataset, target)) if night.night != but]
    waiting = [night for night in waiting if night.stars_seen != rated.digest and by_stars(TARGETS[str(target)])]
    if not waiting or not rated.files():
        return
    store = open_store(for_scoring(settings, None, None).storage if root != run.root else settings.storage)
    predictions = [_predictions(store, night) for night in waiting]
    for night, outcome in zip(waiting, _joined(run, rated, waiting, predictions), strict=True):
        if isinstance(outcome, str):
            say(f"watch: the predictions of night {night.night} are gone: its stars cannot be joined ({outcome})")
            outcome = Realised()
        settled = change(root, night, partial(_settled, outcome=outcome, seen=rated.digest, config=settings.watch))
        found = settled.found
        if int(found.get("realised_rows") or 0) > int(night.found.get("realised_rows") or 0):
            say(f"watch: night {night.night}: {found['realised_rows']:,} of {night.rows:,} reviews have stars by now: "
                f"loss {found['realised_loss']:.4f}, expected {_shown(found.get('expected_loss'))}")  # fmt: skip
            _log(run, night, found, say)
            act_on(settings, root, settled, say, trains=trains)


def _predictions(store: SnapshotStore, night: Night) -> list[Path] | str:
    """Return the files of a night's predictions, or why they are not there: one night must not stop the others."""
    try:
        snapshot = store.find("score", night.predictions)
    except TransientError:  # of a bucket that does not answer: all of them are tried again
        raise
    except Exception as error:
        return str(error).partition("\n")[0]
    return snapshot.files() if snapshot else "removed"


def _joined(
    run: Run, rated: Snapshot, nights: list[Night], predictions: list[list[Path] | str]
) -> Sequence[Realised | str]:
    """Join these stars with the predictions of all nights at once; returns what became of each, or what is wrong."""
    import ray

    there = [
        (files, datetime.fromisoformat(str(night.found["unseen_from"])))
        for night, files in zip(nights, predictions, strict=True)
        if not isinstance(files, str)
    ]
    joined: list[Realised | str] = []
    if there:
        cluster.start(run.settings.ray, run.root)
        target = TARGETS[str(run.record.target)]
        joined = cluster.gather([ray.remote(realised_each).remote(rated.files(), there, target)])[0]
    found = iter(joined)
    return [files if isinstance(files, str) else next(found) for files in predictions]


def _settled(night: Night, outcome: Realised, seen: str, config: WatchConfig) -> Night:
    """Return the night with the realised loss, where these stars tell of more rows than before."""
    found = dict(night.found)
    if outcome.learned > int(found.get("learned_rows") or 0):
        others = [line for line in found.get("told", ()) if LEARNED not in line]
        told = [*others, *learned(outcome.learned, str(found["unseen_from"]))]
        found |= {"learned_rows": outcome.learned, "told": told}
    if outcome.mean is not None and outcome.rows > int(found.get("realised_rows") or 0):
        metric, reference = str(found["metric"]), float(found["reference_loss"])
        loss = overall(metric, outcome.mean)
        others = [warned for warned in night.warnings if warned["expectation"] != REALISED]
        error = float(found.get("reference_error") or 0.0)
        warnings = [*others, *realised_warnings(outcome, metric, reference, error, config)]
        found |= {"realised_rows": outcome.rows, "realised_loss": loss, "realised_excess": excess(loss, reference)}
        found |= {"warnings": warnings}
    return replace(night, found=found, stars_seen=seen)


def _log(run: Run, night: Night, found: Mapping[str, Any], say: Say) -> None:
    """Add a night's numbers to its own run in MLflow."""
    try:
        with tracking.reaching(run.tracker.uri):
            run.tracker.log(night.mlflow_run, metrics=numbers(found))
    except Exception as error:  # the run may be deleted, or the server away; the night's file has it all
        say(f"watch: night {night.night} is not recorded in MLflow: {str(error).partition(chr(10))[0][:200]}")


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"

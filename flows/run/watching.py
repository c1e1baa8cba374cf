"""What follows from the watch over scored reviews: nights are kept and told, late stars are joined, a run is started.

Nothing here fails a run: its predictions, or its model, are committed already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.run import notify, retraining
from flows.run.context import Run
from flows.run.retraining import Cause
from flows.run.scoring import for_scoring
from flows.run.watched_nights import SHOWN, Night, keep, read_nights, write
from tasks.core.secrets import masked
from tasks.core.snapshots import Snapshot
from tasks.core.storage.opening import open_store
from tasks.domain.losses import overall
from tasks.domain.targets import TARGETS
from tasks.engines import cluster, tracking
from tasks.settings import Settings
from tasks.stages.watch.findings import EXPECTED, LEARNED, REALISED, excess, learned, numbers, realised_warnings
from tasks.stages.watch.realised import by_stars, realised

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
    new = [warned for warned in night.warnings if warned["expectation"] not in night.told]
    if new:
        problem = notify.send(settings, EVENT, message(night, new))
        if problem:
            say(f"no notification of what the watch found: {problem}")
        else:
            write(root, replace(night, told=(*night.told, *(warned["expectation"] for warned in new))))
    for warned in night.warnings if not trains else ():
        if (kind := KINDS.get(warned["expectation"])) in settings.retrain.when:
            of = f"{night.model} version {night.version}, night {night.night}"
            cause = Cause(f"{kind}-{night.night}", str(kind), f"{warned['expectation']} {warned['value']} of {of}")
            retraining.start(settings, root.parent, cause, say)


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

    root: of the scoring runs. rated: a snapshot with `review_id` and `rating`. but: a night to leave out.
    trains: the run has learned from these stars itself.
    """
    settings, nights = run.settings, read_nights(root)[:SHOWN]
    same = (run.record.dataset, run.record.target)
    waiting = [n for n in nights if n.is_open and n.night != but and (n.dataset, n.target) == same]
    waiting = [n for n in waiting if n.stars_seen != rated.digest and by_stars(TARGETS[str(n.target)])]
    if not waiting or not rated.files():
        return
    store = open_store(for_scoring(settings, None, None).storage if root != run.root else settings.storage)
    for night in waiting:
        predictions = store.find("score", night.predictions)
        if predictions is None:
            say(f"watch: the predictions of night {night.night} are gone: its stars cannot be joined")
            write(root, replace(night, stars_seen=rated.digest))
            continue
        found = _joined(run, rated, predictions, night)
        settled = replace(night, found=found, stars_seen=rated.digest)
        write(root, settled)
        if int(found.get("realised_rows") or 0) > int(night.found.get("realised_rows") or 0):
            say(f"watch: night {night.night}: {found['realised_rows']:,} of {night.rows:,} reviews have stars by now: "
                f"loss {found['realised_loss']:.4f}, expected {_shown(found.get('expected_loss'))}")  # fmt: skip
            _log(run, night, found, say)
            act_on(settings, root, settled, say, trains=trains)


def _joined(run: Run, rated: Snapshot, predictions: Snapshot, night: Night) -> dict[str, Any]:
    """Return the night's findings with the realised loss, where these stars tell of more rows than before."""
    import ray

    cluster.start(run.settings.ray, run.root)
    target, found = TARGETS[str(night.target)], dict(night.found)
    unseen_from = str(found["unseen_from"])
    sides = (rated.files(), predictions.files(), target, datetime.fromisoformat(unseen_from))
    turned_out = cluster.gather([ray.remote(realised).remote(*sides)])[0]
    if turned_out.learned > int(found.get("learned_rows") or 0):
        others = [line for line in found.get("told", ()) if LEARNED not in line]
        found |= {"learned_rows": turned_out.learned, "told": [*others, *learned(turned_out.learned, unseen_from)]}
    if turned_out.mean is None or turned_out.rows <= int(found.get("realised_rows") or 0):
        return found
    loss, reference = overall(target.metric, turned_out.mean), float(found["reference_loss"])
    found |= {"realised_rows": turned_out.rows, "realised_loss": loss, "realised_excess": excess(loss, reference)}
    others = [warned for warned in night.warnings if warned["expectation"] != REALISED]
    return {
        **found,
        "warnings": [*others, *realised_warnings(turned_out, target.metric, reference, run.settings.watch)],
    }


def _log(run: Run, night: Night, found: Mapping[str, Any], say: Say) -> None:
    """Add a night's numbers to its own run in MLflow."""
    try:
        with tracking.reaching(run.tracker.uri):
            run.tracker.log(night.mlflow_run, metrics=numbers(found))
    except Exception as error:  # the run may be deleted, or the server away; the night's file has it all
        say(f"watch: night {night.night} is not recorded in MLflow: {str(error).partition(chr(10))[0][:200]}")


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"

"""The flow `etl-train`: from raw reviews to a registered model and a report; its stages' order is in flows/graph.py.

raymill run --input PATH --dataset amazon-us        # from the shell
prefect deployment run etl-train/default            # on a worker
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows import graph
from flows.run import environment, links, logs, nights_page, notify, registry_events, watching
from flows.run.context import SETTINGS, Run
from flows.run.mlflow_record import git_commit
from flows.run.nights import nights
from flows.run.opening import open_run
from flows.run.record import RunRecord, StageRow
from flows.run.scoring import FOLDER
from flows.run.stage_task import StageTasks, together
from tasks.core.errors import RaymillError
from tasks.core.secrets import masked
from tasks.core.snapshots import Snapshot
from tasks.domain.metrics import MODELS, by_measure, name_of
from tasks.domain.targets import TARGETS
from tasks.engines import cluster, registry
from tasks.settings import Settings, load_settings
from tasks.stages.evaluate import stage as _evaluate
from tasks.stages.register import packaged_champion
from tasks.stages.register import stage as _register
from tasks.stages.register.candidate import Candidate
from tasks.stages.report import stage as _report

stages = StageTasks()


def _flow_run_name() -> str:
    parameters: dict[str, Any] = flow_run.parameters
    with suppress(RaymillError):  # wrong settings: the flow itself will raise the error
        settings = parameters.get("settings") or load_settings(overrides=parameters.get("overrides") or [])
        return f"etl-train {parameters.get('dataset') or settings.data.dataset}"
    return "etl-train"


@flow(
    name="etl-train",
    flow_run_name=_flow_run_name,
    persist_result=False,
    validate_parameters=True,
    on_completion=[notify.tell_how_it_ended],
    on_failure=[notify.tell_how_it_ended],
    on_crashed=[notify.tell_how_it_ended],
    on_cancellation=[notify.tell_how_it_ended],
)
def etl_train(
    input: str | list[str] | None = None,
    dataset: str | None = None,
    overrides: list[str] | None = None,
    settings: Settings | None = None,
    until: str | None = None,
) -> RunRecord:
    """Clean reviews, compute features, train, evaluate and register a model.

    Args:
        input: Files, folders or globs with reviews; the setting data.input if not given.
        dataset: The dataset profile; the setting data.dataset if not given.
        overrides: Settings as "section.key=value" texts.
        settings: All settings at once, instead of conf and overrides.
        until: The last stage to run; all stages if not given.
    """
    environment.prepare()  # a worker runs this flow without the `raymill` command
    settings = SETTINGS.get() or _with_data(settings or load_settings(overrides=overrides or []), input, dataset)
    logs.set_up(settings)
    notify.remember(str(flow_run.id), settings)
    given = graph.GIVEN.get() or graph.find_given(settings, until)

    with open_run(settings, until) as run:
        page, scores = graph.walk(given, stages, together, partial(register, run))
        publish(run, page, scores)
    return run.summary("completed")


def _with_data(settings: Settings, input: str | list[str] | None, dataset: str | None) -> Settings:
    changes = {name: value for name, value in (("input", input), ("dataset", dataset)) if value}
    return settings.model_copy(update={"data": settings.data.model_copy(update=changes)})


@task(name="register", task_run_name="register", cache_policy=NO_CACHE, persist_result=False)
def _register_task(
    run: Run, splits: Snapshot, model: Snapshot, scores: Snapshot, package: Snapshot, proof: Snapshot
) -> _register.Decision:
    settings = run.settings
    about = {"data set": settings.data.called, "run": run.run_id, "code": git_commit()}

    def judge(data: bytes) -> _evaluate.Judged:
        cluster.start(settings.ray)  # not started yet if all stages were reused
        return _evaluate.judge(splits, data, settings.evaluate, rival=_evaluate.model_bytes(model))

    def judge_package(folder: Path) -> _evaluate.Judged:
        cluster.start(settings.ray)
        raw, reviews = run.snapshots["ingest"], run.snapshots["clean"]
        return packaged_champion.judge_package(folder, raw, reviews, splits, scores, settings.evaluate)

    candidate = Candidate(
        model,
        splits,
        scores,
        package,
        proof,
        run.snapshots,
        about,
        settings.data.called,
        masked(settings.data.origin),
        run.snapshots.get("reference"),
    )

    def decide() -> _register.Decision:
        with registry.one_at_a_time(run.root / registry.LOCK, waiting):
            return _register.register(candidate, settings.registry, run.tracker, judge, judge_package)

    def waiting() -> None:
        get_run_logger().info("another run is registering its model: waiting for it")

    decision: _register.Decision = run.timed("register", decide)
    return decision


def register(run: Run, splits: Snapshot, model: Snapshot, scores: Snapshot, package: Snapshot, proof: Snapshot) -> None:
    """Register the model; write the decision to the run's record."""
    if run.over:
        return
    decision = _register_task(run, splits, model, scores, package, proof)
    if decision.audit is not None:
        name = run.settings.registry.name_for(str(scores.facts["target"]), run.settings.data.called)
        if problem := registry_events.tell(run.settings, name, decision.audit):
            get_run_logger().warning("no notification of the decision: %s", problem)
    record = run.record
    record.decision, record.card = str(decision), decision.card
    record.gates = [gate.as_json() for gate in decision.gates]
    record.metrics, record.target = by_measure(scores.facts["measures"]), str(scores.facts["target"])


def publish(run: Run, page: Snapshot, scores: Snapshot) -> None:
    """Write the report and the Data Docs, record the results in MLflow, and add links and tables in Prefect."""
    if run.record.row("report") is None:  # an earlier stage was the last requested one
        return
    say = get_run_logger().warning
    with watching.not_failing(say, "the stars of scored reviews were not joined"):
        watching.settle(run, run.root / FOLDER, run.snapshots["ingest"], say, trains=True)
    docs = run.write_docs()
    target = run.root / "reports" / run.run_id / "report.html"
    record = run.record
    record.report, record.data_docs, record.mlflow = str(target), str(docs or ""), run.tracker.uri
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(_report.render(page, [_report_row(r) for r in record.stages], _report_facts(run, docs, scores)))
    run.store.keep(target)
    run.track_results(_pngs(page))
    create_table_artifact(
        key="stages", table=[_artifact_row(r) for r in record.stages], description="What each stage did"
    )
    create_markdown_artifact(key="result", markdown=_result_markdown(run, scores), description="Scores and promotion")
    links.link("report", target.as_uri(), "Report")
    links.link("data-docs", docs.as_uri() if docs else None, "Great Expectations Data Docs")


def _report_row(row: StageRow) -> dict[str, Any]:
    """Return a row of the report's table of stages, as `tasks.stages.report` expects it."""
    return {
        "stage": row.stage,
        "rows_in": row.rows_in or None,
        "rows_out": row.rows if row.unit == "rows" else None,
        "rejected": row.rejected or None,
        "repeated": row.repeated or None,
        "seconds": row.wall_s,
        "cpu_s": row.cpu_s,
        "peak_mb": row.peak_mb,
        "reused": row.reused,
        "digest": row.digest,
    }


def _report_facts(run: Run, docs: Path | None, scores: Snapshot) -> dict[str, Any]:
    """Return what the report shows about the run as a whole, without secrets."""
    record, metric = run.summary("running"), str(scores.facts["metric"])
    return {
        "run_id": record.run_id,
        "when": f"{run.began:%Y-%m-%d %H:%M} UTC",
        "decision": record.decision,
        "data_docs": docs.as_uri() if docs else None,
        "mlflow": record.mlflow,
        "gates": record.gates,
        "card": record.card,
        "seconds": record.wall_s,
        "cpu_s": record.cpu_s,
        "peak_mb": record.peak_mb,
        "cost": record.cost,
        "metric": name_of(TARGETS[scores.facts["target"]], metric),
        "nights": nights(run.root, record, metric),
        "warnings": record.warnings,
        "scored": nights_page.scored(run, run.root / FOLDER),
    }


def _pngs(page: Snapshot) -> list[Path]:
    return [page.path(e.name) for e in page.manifest.files if e.name.endswith(".png")]


def _artifact_row(row: StageRow) -> dict[str, Any]:
    return {
        "stage": row.stage,
        "rows in": row.rows_in,
        "rows out": row.rows,
        "rejected": row.rejected,
        "repeated": row.repeated,
        "seconds": row.wall_s,
        "warnings": len(row.warnings),
        "snapshot": row.digest[:12],
        "": "reused" if row.reused else "made",
    }


def _result_markdown(run: Run, scores: Snapshot) -> str:
    """Return a table of each model's measures on the test slice, with 95% intervals for the tuned model."""
    target = TARGETS[scores.facts["target"]]
    measures = scores.facts["measures"]
    lines = [
        f"Target {target.name}: {target.says}.",
        "",
        " | ".join(["| model", *(name_of(target, m) for m in target.measures)]) + " |",
        "|---" * (1 + len(target.measures)) + "|",
    ]
    for model, label in MODELS.items():
        if model in measures:
            cells = [_cell(measures[model].get(m), with_interval=model == "tuned") for m in target.measures]
            lines.append(" | ".join([f"| {label}", *cells]) + " |")
    return "\n".join([*lines, "", f"Model {run.record.decision}."])


def _cell(measured: dict[str, Any] | None, with_interval: bool) -> str:
    if measured is None or measured["value"] is None:
        return "–"
    value = f"{measured['value']:.4f}"
    return f"{value} ({measured['low']:.4f} to {measured['high']:.4f})" if with_interval else value

"""The flow `bench`: measure the cases of `raymill bench` every week and record the numbers in MLflow.

prefect deployment run bench/default -p cases='["etl"]' -p sizes='{"etl": 100000}'
prefect deployment run bench/default -p cases='["all"]' -p page=data/measured.md
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.run import environment, logs
from flows.run.mlflow_record import git_commit
from flows.run.progress import artifact_key
from flows.servers import engine
from tasks.core.errors import RunError, SettingsError
from tasks.engines import tracking
from tasks.settings import Settings, load_settings

EXPERIMENT = "raymill-bench"


def _flow_run_name() -> str:
    return f"bench {', '.join(flow_run.parameters['cases'])}"


@flow(name="bench", flow_run_name=_flow_run_name, persist_result=False, validate_parameters=True)
def bench(
    cases: list[str],
    sizes: dict[str, int] | None = None,
    workers: int = 2,
    runs: int = 3,
    page: str | None = None,
    overrides: list[str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Measure cases one after another; return each result as `raymill bench --json` prints it.

    A failed case does not stop the others; RunError is raised at the end.

    Args:
        cases: The cases to measure, such as etl, tokenize or train; ["all"] for every one.
        sizes: Size by case, in the case's own unit (rows or megabytes); its default size if not given.
        workers: Number of parallel processes.
        runs: Timed pairs of each case, after one warm-up.
        page: A Markdown file to write with all tables and plots, such as data/measured.md.
        overrides: Settings as "section.key=value" texts; only tracking and logging matter here.
    """
    environment.prepare()
    engine.collect_again()
    settings = load_settings(overrides=overrides or [])
    logs.set_up(settings)
    sizes = sizes or {}
    cases = _known() if cases == ["all"] else cases
    _check(cases, sizes)
    results: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for case in cases:
        try:
            results[case] = _measure(case, sizes.get(case), workers, runs)
            _record(settings, results[case])
        except Exception as error:
            failed[case] = str(error).strip().partition("\n")[0]
            get_run_logger().error("%s: %s", case, failed[case])
    if page is not None:
        from benchmarks import page as pages

        pages.write(list(results.values()), Path(page))
    if failed:
        reasons = "; ".join(f"{case}: {error}" for case, error in failed.items())
        raise RunError(f"{len(failed)} of {len(cases)} cases failed: {reasons}", where="bench")
    return results


def _known() -> list[str]:
    from benchmarks.harness import known_cases

    return known_cases()


def _check(cases: list[str], sizes: Mapping[str, int]) -> None:
    known = _known()
    for name in (*cases, *sizes):
        if name not in known:
            raise SettingsError(f"no bench case {name!r}", where="cases and sizes", fix=f"known: {', '.join(known)}")
    if unused := sorted(set(sizes) - set(cases)):
        raise SettingsError(f"sizes of cases that are not measured: {', '.join(unused)}", where="sizes")


@task(name="measure", task_run_name="{case}", cache_policy=NO_CACHE, persist_result=False)
def _measure(case: str, size: int | None, workers: int, runs: int) -> dict[str, Any]:
    from benchmarks.harness import run_case

    log = get_run_logger()
    result = run_case(case, size=size, workers=workers, runs=runs, log=lambda line: log.info("%s", line))
    text = f"```json\n{json.dumps(result, indent=1)}\n```"
    create_markdown_artifact(key=artifact_key(f"bench-{case}"), markdown=text, description=_summary(result))
    return result


def _summary(result: Mapping[str, Any]) -> str:
    ratios = ", ".join(f"{ratio:g} of {peer}'s time" for peer, ratio in result["ratio"].items())
    return f"{result['case']}: {result['ours']['median_s']:g} s{', ' if ratios else ''}{ratios}"


def _record(settings: Settings, result: Mapping[str, Any]) -> None:
    """Record a result as a run of the experiment EXPERIMENT, always under the same metric names."""
    config = settings.tracking.model_copy(update={"experiment": EXPERIMENT})
    machine = result["machine"]
    tags = {
        "raymill.bench.case": result["case"],
        "raymill.bench.checked": result["checked"],
        "mlflow.source.name": "raymill bench",
        "mlflow.source.git.commit": git_commit(),
    }
    tracker = tracking.Tracker.open(config, f"bench {result['case']}", tags)
    with tracking.reaching(tracker.uri):
        params = {f"size_{name}": value for name, value in result["size"].items()}
        params |= {"workers": result["workers"], "runs": result["ours"]["runs"]}
        params |= {name: machine[name] for name in ("cpu", "cores", "memory_bytes", "python")}
        tracker.log(tracker.run_id, params=params, metrics=metrics_of(result))
        tracker.client.log_dict(tracker.run_id, dict(result), "bench.json")
        tracker.end(tracker.run_id)


def metrics_of(result: Mapping[str, Any]) -> dict[str, float]:
    """Return a result's numbers by metric name: ours_median_s, polars_median_s, ratio_polars, load_average, etc."""
    sides = {"ours": result["ours"], **result["peers"]}
    metrics = {
        f"{side}_{name}": float(value)
        for side, numbers in sides.items()
        for name, value in numbers.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    metrics |= {f"ratio_{peer}": float(ratio) for peer, ratio in result["ratio"].items()}
    return metrics | {"load_average": float(result["machine"]["load_average"])}

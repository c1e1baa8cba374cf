"""Data Docs: Great Expectations' pages over our aggregated results, in their own file context.

    FOLDER/gx/uncommitted/validations/            one JSON file per run, stage and table
    FOLDER/gx/uncommitted/data_docs/local_site/   the pages; open index.html

Runs in an actor that has imported great_expectations already. A run of 12 stages costs about 0.6 s, the same every
night: only new pages are rendered, and runs beyond the newest KEEP_RUNS are removed from store and site.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from tasks.core import locks
from tasks.core.digests import digest_of
from tasks.engines.suites import FAIL, SEVERITIES
from tasks.engines.validation import Validation, is_fatal, show_example

KEEP_RUNS = 5
STORE = "gx/uncommitted/validations"
SITE = "gx/uncommitted/data_docs/local_site"

# The pages load Bootstrap from the internet. Without it they would have no columns, colours or boxes; these few rules
# repeat Bootstrap's own, so that they change nothing online.
STYLES = """
body { font-family: system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; line-height: 1.5; margin: 0 }
*, ::before, ::after { box-sizing: border-box }
.container-fluid { padding: 0 15px }
.row { display: flex; flex-wrap: wrap }
.row > * { width: 100% }
@media (min-width: 768px) {
  .col-md-2 { flex: 0 0 16.67%; max-width: 16.67% }
  .col-md-10 { flex: 0 0 83.33%; max-width: 83.33% }
}
.col-6 { flex: 0 0 50%; max-width: 50% }
.col-12 { flex: 0 0 100%; max-width: 100% }
.table { width: 100%; border-collapse: collapse }
.table td, .table th { padding: .5rem; border-top: 1px solid #dee2e6; vertical-align: top; text-align: left }
.alert { padding: .75rem 1.25rem; border-radius: .25rem }
.alert-secondary { background: #e2e3e5; color: #383d41 }
.alert-danger { background: #f8d7da; color: #721c24 }
.alert-success { background: #d4edda; color: #155724 }
.alert-warning { background: #fff3cd; color: #856404 }
.badge { padding: .25em .4em; border-radius: .25rem; font-size: 85% }
.badge-secondary { background: #6c757d; color: #fff }
.text-success { color: #28a745 }
.text-danger { color: #dc3545 }
.card { border: 1px solid rgba(0, 0, 0, .125); border-radius: .25rem }
.card-header { background: rgba(0, 0, 0, .03); padding: .5rem }
.card-body { padding: 1rem }
.nav, .breadcrumb { list-style: none; padding-left: 0 }
.breadcrumb { display: flex; gap: .5rem }
.fa-check-circle::before { content: "\\2713" }
.fa-times::before { content: "\\2717" }
.fa-exclamation-triangle::before { content: "\\26A0" }
footer, nav img { display: none }
"""


def write(folder: Path, validations: dict[str, Validation], run_name: str, run_time: datetime) -> Path:
    """Add one run's results, remove the oldest, build the site. Returns the path of index.html."""
    from great_expectations.core import RunIdentifier
    from great_expectations.data_context.types.resource_identifiers import (
        ExpectationSuiteIdentifier,
        ValidationResultIdentifier,
    )

    folder.mkdir(parents=True, exist_ok=True)
    with locks.locked(folder / ".lock"):  # two runs may end at once
        for path in [*(folder / STORE).rglob("*.json"), *(folder / "gx" / "expectations").rglob("*.json")]:
            if _whole(path) is None:
                path.unlink(missing_ok=True)  # Great Expectations would stop at it
        context = _context(folder)
        run = RunIdentifier(run_name=run_name.replace("/", "-"), run_time=run_time)
        new: list[Any] = []
        for validation in validations.values():
            for table in dict.fromkeys(result["table"] for result in validation.results):
                outcome = _to_gx(validation, table, run)
                name = ExpectationSuiteIdentifier(name=outcome.suite_name)
                key = ValidationResultIdentifier(
                    expectation_suite_identifier=name, run_id=run, batch_identifier=table or "main"
                )
                context.validation_results_store.set(key, outcome)
                new.append(key)
                if _store_suite(context, outcome):
                    new.append(name)
        _forget(context.validation_results_store)
        context.build_data_docs(resource_identifiers=new or [None])  # an empty list would mean all of them
        index = folder / SITE / "index.html"
        _list_without_scripts(index, folder / STORE)
    return index


def _context(folder: Path) -> Any:
    import great_expectations as gx

    is_new = not (folder / "gx" / "great_expectations.yml").exists()
    context = gx.get_context(mode="file", project_root_dir=str(folder))
    if is_new:
        styles = folder / "gx" / "plugins" / "custom_data_docs" / "styles"
        styles.mkdir(parents=True, exist_ok=True)
        (styles / "data_docs_custom_styles.css").write_text(STYLES)
        context.update_data_docs_site(
            "local_site",
            {
                "class_name": "SiteBuilder",
                "show_how_to_buttons": False,  # type: ignore[typeddict-unknown-key]
                "store_backend": {
                    "class_name": "TupleFilesystemStoreBackend",
                    "base_directory": "uncommitted/data_docs/local_site/",
                },
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
                "site_section_builders": {"profiling": "None"},
            },
        )
        context = gx.get_context(mode="file", project_root_dir=str(folder))
    return context


def _to_gx(validation: Validation, table: str, run: Any) -> Any:
    """Convert one table's results to Great Expectations' form; a dot in a suite's name makes a folder of the pages."""
    import great_expectations as gx
    from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    entries = [result for result in validation.results if result["table"] == table]
    results = []
    for entry in entries:
        result = {k: entry[k] for k in ("element_count", "missing_count", "unexpected_count") if entry[k] is not None}
        if result:
            elements = result["element_count"] or 1
            result["unexpected_percent"] = entry["unexpected_percent"]
            result["unexpected_percent_total"] = 100 * result["unexpected_count"] / elements
            result["missing_percent"] = 100 * result["missing_count"] / elements
            # Great Expectations does not escape these cells, and they hold reviewers' text.
            result["partial_unexpected_list"] = [escape(show_example(example)) for example in entry["examples"]]
        else:
            result["observed_value"] = entry["observed_value"]
        error = entry["error"]
        raised = {"raised_exception": True, "exception_message": error, "exception_traceback": ""} if error else None
        severity: Any = SEVERITIES[entry.get("severity", FAIL)]
        config = ExpectationConfiguration(type=entry["type"], kwargs=entry["kwargs"], severity=severity)
        results.append(
            ExpectationValidationResult(
                success=entry["success"], expectation_config=config, result=result, exception_info=raised
            )
        )
    good = sum(entry["success"] for entry in entries)
    name = f"{validation.stage}.{table}" if table else validation.stage
    return ExpectationSuiteValidationResult(
        success=all(entry["success"] or not is_fatal(entry) for entry in entries),
        results=results,
        suite_name=name,
        statistics={
            "evaluated_expectations": len(entries),
            "successful_expectations": good,
            "unsuccessful_expectations": len(entries) - good,
            "success_percent": 100 * good / len(entries),
        },
        meta={
            "run_id": run,
            "great_expectations_version": gx.__version__,
            "batch_spec": {"data_asset_name": name.replace(".", "/"), "rows": validation.rows[table]},
        },
    )


def _store_suite(context: Any, outcome: Any) -> bool:
    """Store the suite beside its results, as their pages link to it. False if it is there, unchanged."""
    import great_expectations as gx

    configs = [result.expectation_config for result in outcome.results]
    digest = digest_of([[config.type, config.kwargs, config.severity] for config in configs])
    path = Path(context.root_directory) / "expectations" / (outcome.suite_name.replace(".", "/") + ".json")
    if path.exists() and (_whole(path) or {}).get("meta", {}).get("digest") == digest:
        return False
    suite = gx.ExpectationSuite(
        name=outcome.suite_name, expectations=[config.to_domain_obj() for config in configs], meta={"digest": digest}
    )
    context.suites.add_or_update(suite)
    return True


def _whole(path: Path) -> dict[str, Any] | None:
    """Return a JSON object; None if the file is absent or not whole, as a power cut leaves it."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _forget(store: Any) -> None:
    keys = store.list_keys()
    times = sorted({key.run_id.run_time for key in keys}, reverse=True)
    for key in keys:
        if key.run_id.run_time not in times[:KEEP_RUNS]:
            store.remove_key(key)  # building the index removes the pages of removed results


def _list_without_scripts(index: Path, store: Path) -> None:
    """Add a plain list of the results to index.html, shown when its own table is not.

    jQuery, loaded from the internet, draws that table, so offline the page would list nothing.
    """
    results = [
        (path.relative_to(store).with_suffix(".html"), result)
        for path in store.rglob("*.json")
        if (result := _whole(path))
    ]
    results.sort(key=lambda result: (result[1]["success"], str(result[0])))
    results.sort(key=lambda result: result[1]["meta"]["run_id"]["run_time"], reverse=True)
    table = "".join(_row(page, result) for page, result in results)
    plain = (
        '<div id="plain-list" class="container-fluid"><table class="table"><thead><tr><th>Result</th><th>Table</th>'
        f"<th>Unmet</th><th>Run</th><th>Time</th></tr></thead><tbody>{table}</tbody></table></div>"
        '<script>if (window.jQuery) document.getElementById("plain-list").remove()</script>'
    )
    page = index.read_text()
    index.write_text(page.replace("</body>", f"{plain}</body>"))


def _row(page: Path, result: dict[str, Any]) -> str:
    run, good = result["meta"]["run_id"], result["success"]
    unmet: Iterable[dict[str, Any]] = (r["expectation_config"] for r in result["results"] if not r["success"])
    names = "; ".join(f"{config['kwargs'].get('column', 'table')}: {config['type']}" for config in unmet)
    warned = "fa-exclamation-triangle" if names else "fa-check-circle text-success"
    sign = warned if good else "fa-times text-danger"
    mark = f'<i class="fas {sign}"></i>'
    link = f'<a href="validations/{escape(page.as_posix())}">{escape(result["suite_name"])}</a>'
    cells = [mark, link, escape(names), escape(run["run_name"]), escape(run["run_time"])]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"

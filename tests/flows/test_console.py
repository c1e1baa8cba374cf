"""Tables are read in a terminal of 80 columns: no header, name or number is cut off, however large."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.cells import cell_len
from rich.console import Console

from flows.cli.ablate import print_worths
from flows.cli.console import ConsoleView, print_summary, stage_table
from flows.cli.inspect import print_inspection
from flows.cli.models import audit_table, version_table
from flows.cli.snapshots import snapshot_table
from flows.cli.status import print_status
from flows.run.record import RunRecord, StageRow
from tasks.engines.registry import Audit
from tasks.sources.inspection import inspect


def printed(width: int, *things: Any) -> str:
    console = Console(width=width, file=io.StringIO())
    for thing in things:
        thing(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def whole(text: str, *values: str) -> None:
    """Assert that nothing is cut off, and that each value stands in one line."""
    assert "…" not in text
    assert max(map(cell_len, text.splitlines())) <= 80
    assert [value for value in values if value not in text] == []


WIDE = StageRow(
    "near-duplicates",
    rows_in=250_000_000,
    rows=250_000_000,
    rejected=99_999_999,
    repeated=99_999_999,
    left_out=88_888_888,
    wall_s=99_999.9,
    digest="0123456789",
)


METRICS = {"logloss": {"tuned": 0.5971, "mean": 1.2}, "auc": {"tuned": 0.4}, "accuracy": {"linear": 12.3456}}
RECORD = RunRecord(
    run_id="20260329-043003-a1b2c3",
    stages=[WIDE, replace(WIDE, stage="describe", unit="people"), replace(WIDE, stage="tokenize", reused=True)],
    metrics=METRICS,
    wall_s=45_678.9,
)
WIDEST = ["stage", "rows in", "out", "dropped", "seconds", "near-duplicates", "250,000,000", "250,000,000 people"]
WIDEST += ["99,999,999 rejected", "99,999,999 repeated", "88,888,888 left out", "99,999.9", "reused"]
WIDEST += ["log loss", "accuracy", "12.3456", "linear baseline", "predict-the-mean"]


def test_the_summary_of_a_run_is_whole_with_every_column_at_its_widest() -> None:
    text = printed(80, lambda console: print_summary(console, RECORD))
    whole(text, *WIDEST)
    assert "01234567" not in text
    assert "01234567" in printed(92, lambda console: print_summary(console, RECORD))


def test_an_ordinary_run_has_a_line_for_each_stage_and_a_column_of_dropped_rows_only_where_there_are_some() -> None:
    few = StageRow("ingest", rows_in=20_000, rows=19_924, wall_s=2.31)
    words = StageRow("count-words", rows=30_124, unit="words", wall_s=4.0)
    kept = replace(RECORD, stages=[few, words, StageRow("near-duplicates", reused=True)])
    assert [line.rstrip() for line in printed(80, lambda console: print_summary(console, kept)).splitlines()][1:5] == [
        "stage            rows in     out        seconds",
        "ingest            20,000  19,924            2.3",
        "count-words               30,124 words      4.0",
        "near-duplicates                          reused",
    ]
    lost = replace(RECORD, stages=[replace(few, rejected=76), words])
    assert [line.rstrip() for line in printed(80, lambda console: print_summary(console, lost)).splitlines()][1:4] == [
        "stage        rows in     out            dropped  seconds",
        "ingest        20,000  19,924        76 rejected      2.3",
        "count-words           30,124 words                   4.0",
    ]


def test_what_is_wider_than_the_terminal_goes_on_in_the_next_line() -> None:
    stage = "a-stage-of-somebody-with-a-name-that-is-far-too-long"
    table = stage_table(replace(RECORD, stages=[replace(WIDE, stage=stage)]), with_digests=False)
    text = printed(80, lambda console: console.print(table))
    whole(text, "99,999,999 rejected", "250,000,000")
    assert "".join(line[: text.index("rows in")].split("  ")[0].strip() for line in text.splitlines()[2:]) == stage


def test_the_table_of_snapshots_is_whole(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.truncate(250_000_000_000)  # a hole, no bytes on disk
    names = ("near-duplicates", "language-model", "clean", "tokenize", "count-words", "split")
    inputs = [SimpleNamespace(stage=name, digest="0123456789abcdef") for name in names]
    files = [SimpleNamespace(rows=250_000_000, table="")]
    about = SimpleNamespace(files=files, inputs=inputs, committed_at="2026-03-29T04:30:03+00:00")
    snapshot: Any = SimpleNamespace(manifest=about, folder=tmp_path, stage="near-duplicates", digest="f" * 64)
    text = printed(80, lambda console: console.print(snapshot_table([snapshot])))
    read = [f"{name}@01234567" for name in names]
    whole(text, "near-duplicates", "f" * 12, "250,000,000", "250,000.0", "2026-03-29 04:30", "committed", *read)


def test_the_table_of_services_is_whole() -> None:
    url = f"https://{'very-long-name.' * 3}example.com:65535"
    about = {"url": url, "pid": 4_194_304, "since": time.time() - 1e8, "restarts": 9_999, "problem": ""}
    ill = {**about, "problem": "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: Hostname mismatch, " * 2}
    services = {"prefect": about, "mlflow": ill, "worker": {**about, "url": ""}}
    text = printed(80, lambda console: print_status(console, {"up": True, "services": services}))
    whole(text, "service", "restarts", "process", "prefect", url, "4194304", "1157 days, 9:46:40", "9,999", "not well")
    assert ill["problem"].strip() in " ".join(text.split())


def test_the_tables_of_models_are_whole() -> None:
    decision = "version 1234 is not champion: " + "a gate and what it measured, " * 5
    moment = "2026-03-29T04:30:03+00:00"
    losses = {f"mlogloss_{name}": 0.59712 for name in ("tuned", "baseline", "linear", "mean")}
    version = {"version": "1234", "aliases": ["champion", "challenger"], "made": moment, "promoted": "rolled back"}
    rows = [{**version, "losses": losses, "decision": decision}]
    text = printed(80, lambda console: console.print(version_table(rows)))
    whole(text, "version", "1234", "champion, challenger", moment, "rolled back", "baseline 0.5971", "mean 0.5971")
    assert decision.strip() in " ".join(text.split())
    who = f"nora@{'very-long-name.' * 3}example.com"
    audit = Audit("promote by hand", "1234", "1233", "1234", who, moment, decision, finished=False)
    text = printed(80, lambda console: console.print(audit_table([audit])))
    whole(text, "champion", moment, "promote by hand", "1233 → 1234", who)
    assert f"{decision.strip()} (not finished)" in " ".join(text.split())


def test_what_inspect_finds_is_whole(tmp_path: Path) -> None:
    names = [f"the_column_of_a_wide_table_that_holds_{what}" for what in ("the_user", "the_item", "the_stars", "texts")]
    texts = [f"This is review number {n}, which fills its room of sixty." for n in range(30)]
    path = tmp_path / "reviews.csv"
    rows = [f'customer-{n:032},item-{n:027},{n % 5 + 1},"{text}"' for n, text in enumerate(texts)]
    path.write_text("\n".join([",".join(names), *rows]))
    text = printed(80, lambda console: print_inspection(console, inspect([str(path)]), [str(path)], None))
    assert "…" not in text
    lines = text.partition(" rows:\n")[2].partition("\n\n")[0].splitlines()
    first = "".join(line[: lines[0].index("holds")].strip() for line in lines)
    assert [name for name in names if name not in first] == []
    last = " ".join(line[lines[0].index("example") :].strip() for line in lines)
    assert texts[0] in last


def test_the_worths_of_feature_groups_are_whole() -> None:
    worth = {"group": "embeddings", "features": 128, "without": 0.59712, "difference": -0.00123}
    groups = [{**worth, "low": -0.0021, "high": -0.0001}]
    result = {
        "metric": "mlogloss",
        "target": "stars",
        "rows": 25_000_000,
        "features": 256,
        "loss": 0.5,
        "groups": groups,
    }
    text = printed(80, lambda console: print_worths(console, result))
    whole(text, "without", "features", "difference", "95% interval", "-0.0021 to -0.0001", "harms", "0.5971")


def test_warnings_are_counted_in_their_stages_line_and_listed_at_the_end() -> None:
    found = {
        "expectation": "helpful_votes: expect_column_values_to_be_between",
        "value": "30,000,000 of 250,000,000 rows",
        "limit": "min_value=0, mostly=0.99",
    }
    row = StageRow("clean", rows=3, validation={"warnings": [found]})
    assert "1 warning(s)" in printed(80, lambda console: ConsoleView(console).ended(row))
    said = printed(80, lambda console: print_summary(console, RunRecord(run_id="r", stages=[row])))
    whole(said, "Warnings (1)", "clean: helpful_votes: expect_column_values_to_be_between")
    assert "30,000,000 of 250,000,000 rows; limit: min_value=0, mostly=0.99" in " ".join(said.split())

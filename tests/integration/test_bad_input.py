"""Bad input through the real command: one message that says what, where and what to do; exit status 2; nothing left."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.settings import PROJECT

COLUMNS = ("customer_id", "review_id", "product_id", "star_rating", "review_headline", "review_body", "review_date")


def rows(n: int = 5, **changes: str) -> list[dict[str, str]]:
    made = []
    for i in range(n):
        values = (
            f"c{i % 7}",
            f"R{i}",
            f"p{i % 3}",
            str(1 + i % 5),
            "Head",
            f"Text {i}",
            f"2015-{1 + i % 12:02}-{1 + i % 28:02}",
        )
        made.append({**dict(zip(COLUMNS, values, strict=True)), **changes})
    return made


def as_csv(records: list[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, records[0].keys())
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def as_parquet(path: Path, records: list[dict[str, str]]) -> Path:
    pq.write_table(pa.Table.from_pylist(records), path)
    return path


class Command:
    """`raymill run` in a process of its own, with storage and tracking in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.storage = folder / "storage"
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("RAYMILL_")}
        self.environment |= {"COLUMNS": "80", "NO_COLOR": "1"}

    def run(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        there = (f"storage.root={self.storage}", f"tracking.uri=sqlite:///{self.storage}/mlflow.db")
        command = [sys.executable, "-m", "flows.cli", "run", *arguments]
        for override in there:
            command += ["--set", override]
        return subprocess.run(
            command, cwd=PROJECT, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    def snapshots(self) -> list[Path]:
        """Committed snapshots and whatever is left of attempts."""
        return [p for p in self.storage.glob("snapshots/*/*/*") if p.name != "scratch"]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


def refused(done: subprocess.CompletedProcess[str], *said: str, status: int = 2) -> None:
    """One message on standard error, with these words in it and what to do."""
    message = done.stderr.strip()
    assert done.returncode == status, f"{done.stdout}\n{message}"
    assert "Traceback" not in done.stdout + message
    assert message.count("error:") == 1, message
    assert message.startswith("error: "), message
    assert "→" in message, f"says not what to do: {message}"
    assert len(message.splitlines()) <= 3, message
    for words in said:
        assert words in message, message


def text_file(name: str, text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(text)
        return folder / name

    return make


def empty_folder(folder: Path) -> Path:
    (folder / "nothing").mkdir()
    return folder / "nothing"


def folder_of_other_files(folder: Path) -> Path:
    (folder / "other").mkdir()
    (folder / "other" / "notes.docx").write_text("x")
    return folder / "other"


def word_document(folder: Path) -> Path:
    with ZipFile(folder / "reviews.docx", "w") as file:
        file.writestr("word/document.xml", "<w:document/>")
    return folder / "reviews.docx"


def parquet_called_csv(folder: Path) -> Path:
    return as_parquet(folder / "a.parquet", rows()).rename(folder / "a.csv")


def parquet_cut_off(folder: Path) -> Path:
    path = as_parquet(folder / "a.parquet", rows(500))
    path.write_bytes(path.read_bytes()[:-100])
    return path


def parquet_cut_off_among_good_ones(folder: Path) -> Path:
    (folder / "several").mkdir()
    as_parquet(folder / "several" / "a.parquet", rows())
    parquet_cut_off(folder / "several").rename(folder / "several" / "b.parquet")
    as_parquet(folder / "several" / "a.parquet", rows())
    return folder / "several"


def parquet_without(column: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        return as_parquet(folder / "a.parquet", [{k: v for k, v in r.items() if k != column} for r in rows()])

    return make


def lists_as_text(folder: Path) -> Path:
    table = pa.Table.from_pylist(rows()).drop_columns("review_body")
    pq.write_table(table.append_column("review_body", pa.array([["a", "b"]] * 5)), folder / "a.parquet")
    return folder / "a.parquet"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(lambda f: f / "not-there", ["no such file or folder", "not-there"], id="no such path"),
        pytest.param(empty_folder, ["this folder is empty", "nothing"], id="empty folder"),
        pytest.param(folder_of_other_files, ["no review files", ".docx", "parquet, csv, tsv"], id="other files alone"),
        pytest.param(word_document, ["unknown format '.docx'", "reviews.docx"], id="a Word document"),
        pytest.param(
            text_file("a.parquet", "customer_id\n1\n"), ["not a parquet file", "a.parquet"], id="text as parquet"
        ),
        pytest.param(parquet_called_csv, ["this is a parquet file, not CSV", "a.csv"], id="parquet as CSV"),
        pytest.param(parquet_cut_off, ["cut off or damaged", "a.parquet"], id="parquet without its footer"),
        pytest.param(parquet_cut_off_among_good_ones, ["cut off", "b.parquet"], id="one of several is cut off"),
        pytest.param(text_file("a.csv", ""), ["the file is empty", "a.csv"], id="no bytes"),
        pytest.param(
            parquet_without("star_rating"), ["star_rating", "missing", "a.parquet"], id="no rating in parquet"
        ),
        pytest.param(
            text_file("a.csv", as_csv(rows()).replace("review_body", "body")),
            ["review_body", "a.csv"],
            id="no text in CSV",
        ),
        pytest.param(
            text_file("a.tsv", as_csv(rows())), ["first line has 1 fields", "a.tsv", "TSV"], id="commas in a TSV file"
        ),
        pytest.param(lists_as_text, ["'review_body'", "list<", "a.parquet"], id="lists where text belongs"),
    ],
)
def test_input_that_cannot_be_read(
    command: Command, tmp_path: Path, make: Callable[[Path], Path], said: list[str]
) -> None:
    refused(command.run("--input", str(make(tmp_path)), "--dataset", "amazon-us"), *said)
    assert command.snapshots() == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dataset", "amazon-uk"], ["no dataset profile 'amazon-uk'", "did you mean amazon-us?"]),
        (["--dataset", "zzz"], ["no dataset profile 'zzz'", "amazon-us, canonical"]),
        (["--profile", "zzz"], ["no profile 'zzz'", "known profiles"]),
        (["--set", "clean.remove_htlm=false"], ["clean.remove_htlm", "did you mean clean.remove_html?"]),
        (["--set", "cleaning.remove_html=false"], ["cleaning", "did you mean clean?"]),
        (["--set", "tune.trials=many"], ["tune.trials", "valid integer", "'many'"]),
        (["--set", "tune.trials=0"], ["tune.trials", "greater than or equal to 1"]),
        (["--set", "split.train=0.95"], ["split", "must leave a test slice"]),
        (["--set", "tune.space.eta=[0.3, 0.1]"], ["tune.space", "low must be below high"]),
        (["--set", "tune.trials"], ["'tune.trials' is not section.key=value", "--set tune.trials=20"]),
        (["--set", "trials=3"], ["'trials=3' is not section.key=value"]),
        (["--set", "tune.trials=[1"], ["tune.trials", "cannot read the value"]),
    ],
)
def test_settings_that_are_wrong(command: Command, tmp_path: Path, arguments: list[str], said: list[str]) -> None:
    path = text_file("a.csv", as_csv(rows()))(tmp_path)
    refused(command.run("--input", str(path), *arguments), *said)
    assert command.snapshots() == []


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("columns: {", ["malformed"]),
        ("just text", ["malformed"]),
        ("description: x\ncolumns: {user_id: a}\n", ["mandatory columns not mapped", "item_id"]),
        ("description: x\ncolumns: {user_id: a}\ncolour: red\n", ["malformed", "colour"]),
    ],
)
def test_a_malformed_dataset_profile(command: Command, tmp_path: Path, profile: str, said: list[str]) -> None:
    path, mine = text_file("a.csv", as_csv(rows()))(tmp_path), text_file("mine.yaml", profile)(tmp_path)
    refused(command.run("--input", str(path), "--dataset", str(mine)), "mine.yaml", *said)
    assert command.snapshots() == []


def test_an_unknown_option_is_a_users_mistake_too(command: Command) -> None:
    done = command.run("--inptu", "x")
    assert done.returncode == 2
    assert "--inptu" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_stage_is_refused_before_anything_is_done(command: Command, tmp_path: Path) -> None:
    path = text_file("a.csv", as_csv(rows()))(tmp_path)
    refused(command.run("--input", str(path), "--until", "cleen"), "no stage 'cleen'", "--until", "clean")
    assert command.snapshots() == []


@pytest.mark.slow
class TestFoundOutOnlyByReading:
    @pytest.mark.parametrize(
        ("records", "said"),
        [
            pytest.param(
                rows(200, star_rating="9"), ["0 usable rows (200 unusable", "rating outside 1..5"], id="none usable"
            ),
            pytest.param(rows(30), ["30 usable rows", "at least 100"], id="too few"),
        ],
    )
    def test_too_few_usable_rows(
        self, command: Command, tmp_path: Path, records: list[dict[str, str]], said: list[str]
    ) -> None:
        path = text_file("a.csv", as_csv(records))(tmp_path)
        refused(command.run("--input", str(path), timeout=300), "a.csv", *said)
        assert command.snapshots() == []

    @pytest.mark.parametrize("ending", ["csv", "parquet"])
    def test_a_header_without_rows(self, command: Command, tmp_path: Path, ending: str) -> None:
        path = tmp_path / f"a.{ending}"
        if ending == "csv":
            path.write_text(",".join(COLUMNS) + "\n")
        else:
            pq.write_table(pa.Table.from_pylist(rows()).slice(0, 0), path)
        refused(command.run("--input", str(path), timeout=300), path.name, "0 usable rows")
        assert command.snapshots() == []

    def test_all_reviews_of_one_day_cannot_be_split_by_time(self, command: Command, tmp_path: Path) -> None:
        path = text_file("a.csv", as_csv(rows(300, review_date="2015-01-01")))(tmp_path)
        done = command.run("--input", str(path), "--until", "split", timeout=300)
        refused(done, "too few reviews to split by time", "split.min_rows")
        assert not [p for p in command.snapshots() if p.parts[-3] == "split"]

    def test_too_many_rejects_are_a_failed_run(self, command: Command, tmp_path: Path) -> None:
        records = rows(200) + rows(50, star_rating="nine")
        path = text_file("a.csv", as_csv(records))(tmp_path)
        done = command.run("--input", str(path), timeout=300)
        refused(done, "50 of 250 rows", "rating is not a number: 50", "ingest.max_reject_fraction", status=1)
        assert command.snapshots() == []
        records_kept = [json.loads(p.read_text()) for p in (command.storage / "runs").glob("*.json")]
        assert [r["state"] for r in records_kept] == ["failed"]

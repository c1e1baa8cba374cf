"""Bad input through the command: one message that says what, where and what to do; exit status 2; nothing left."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.sections import PROJECT
from tests.support.command import Done, raymill
from tests.support.mlflow_database import new_database
from tests.support.wrong_inputs import (
    COLUMNS,
    as_csv,
    as_parquet,
    empty_folder,
    folder_of_other_files,
    lists_as_text,
    only_a_link_out,
    parquet_cut_off,
    parquet_cut_off_among_good_ones,
    parquet_in_gzip,
    parquet_without,
    rows,
    text_file,
    word_document,
    zip_cut_off,
    zip_of,
    zip_that_leads_out,
)


class Command:
    """`raymill run` with storage and tracking in a temporary folder."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.storage, self.variables = folder / "storage", {"COLUMNS": "80", "NO_COLOR": "1", **variables}

    def words(self, *arguments: str) -> list[str]:
        there = (f"storage.root={self.storage}", f"tracking.uri=sqlite:///{self.storage}/mlflow.db")
        return ["run", *arguments, *(word for override in there for word in ("--set", override))]

    def run(self, *arguments: str) -> Done:
        return raymill(*self.words(*arguments), **self.variables)

    def run_in_a_process(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """As from a shell: what libraries and their processes print comes through, too."""
        command = [sys.executable, "-m", "flows.cli.main", *self.words(*arguments)]
        environment = {**os.environ, **self.variables}
        return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=300)

    def snapshots(self) -> list[Path]:
        """Committed snapshots and whatever is left of attempts."""
        return [p for p in self.storage.glob("snapshots/*/*/*") if p.name != "scratch"]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


def refused(done: Done | subprocess.CompletedProcess[str], *said: str, status: int = 2) -> None:
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


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(lambda f: f / "not-there", ["no such file or folder", "not-there"], id="no such path"),
        pytest.param(empty_folder, ["this folder is empty", "nothing"], id="empty folder"),
        pytest.param(lambda f: f"{f}/*.csv", ["no file matches", "*.csv"], id="a glob that matches nothing"),
        pytest.param(
            folder_of_other_files, ["no review files", ".docx", ".parquet, .csv, .tsv"], id="other files alone"
        ),
        pytest.param(word_document, ["zip file holds no review files", ".xml", "reviews.docx"], id="a Word document"),
        pytest.param(zip_of(readme_md="x"), ["zip file holds no review files", ".md", "a.zip"], id="a zip of others"),
        pytest.param(zip_that_leads_out, ["its name leads out of the archive", "a.zip"], id="a zip that leads out"),
        pytest.param(zip_cut_off, ["no readable directory", "cut off", "a.zip"], id="a zip cut off"),
        pytest.param(parquet_in_gzip, ["a parquet file inside gzip", "unpack it"], id="parquet packed again"),
        pytest.param(only_a_link_out, ["a symbolic link out of the folder"], id="a link out of the folder"),
        pytest.param(
            text_file("a.parquet", "customer_id\n1\n"), ["not a parquet file", "a.parquet"], id="text as parquet"
        ),
        pytest.param(parquet_cut_off, ["cut off or damaged", "a.parquet"], id="parquet without its footer"),
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
        pytest.param(
            text_file("a.json", '{"user": 1, "stars": 5}\n'), ["missing: customer_id", "a.json"], id="other JSON lines"
        ),
        pytest.param(text_file("a.jsonl", "stars: 5\n"), ["the first line is not a JSON object"], id="no JSON at all"),
        pytest.param(lists_as_text, ["'review_body'", "list<", "a.parquet"], id="lists where text belongs"),
    ],
)
def test_input_that_cannot_be_read(
    command: Command, tmp_path: Path, make: Callable[[Path], Path], said: list[str]
) -> None:
    refused(command.run("--input", str(make(tmp_path)), "--dataset", "amazon-us"), *said)
    assert command.snapshots() == []


def test_one_of_several_that_cannot_be_read_is_refused_if_so_set(command: Command, tmp_path: Path) -> None:
    path = parquet_cut_off_among_good_ones(tmp_path)
    refused(command.run("--input", str(path), "--set", "ingest.damaged_files=refuse"), "cut off", "b.parquet")
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


def test_a_mistake_is_told_without_a_traceback_by_the_command_itself(command: Command, tmp_path: Path) -> None:
    refused(command.run_in_a_process("--input", str(tmp_path / "not-there")), "no such file or folder", "not-there")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
class TestFoundOutOnlyByReading:
    @pytest.fixture
    def command(self, server: str, tmp_path: Path) -> Command:
        command = Command(tmp_path, PREFECT_API_URL=server)
        new_database(command.storage / "mlflow.db")
        return command

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
        refused(command.run("--input", str(path)), "a.csv", *said)
        assert command.snapshots() == []

    def test_a_file_that_is_damaged_is_refused_if_so_set(self, command: Command, tmp_path: Path) -> None:
        packed = gzip.compress(as_csv(rows(300)).encode())
        (tmp_path / "a.csv.gz").write_bytes(packed[: len(packed) // 2])
        done = command.run("--input", str(tmp_path / "a.csv.gz"), "--set", "ingest.damaged_files=refuse")
        refused(done, "gzip data cut off", "a.csv.gz")
        assert command.snapshots() == []

    def test_what_is_readable_among_damaged_files_is_used_and_they_are_listed(
        self, command: Command, tmp_path: Path
    ) -> None:
        folder = parquet_cut_off_among_good_ones(tmp_path)
        as_parquet(folder / "a.parquet", rows(200))
        packed = gzip.compress(as_csv(rows(300)).encode())
        (folder / "c.csv.gz").write_bytes(packed[: len(packed) // 2])
        done = command.run("--input", str(folder), "--until", "ingest")
        assert done.returncode == 0, done.stderr
        (listed,) = (command.storage / "snapshots" / "ingest").rglob("quarantine/files.parquet")
        entries = {entry["source"]: entry for entry in pq.read_table(listed).to_pylist()}
        assert list(entries) == ["b.parquet", "c.csv.gz"]
        assert "cut off or damaged" in entries["b.parquet"]["reason"]
        assert "gzip data cut off" in entries["c.csv.gz"]["reason"]
        manifest = json.loads((listed.parents[2] / "manifest.json").read_text())
        assert manifest["counts"]["rows_in"] == 200 + entries["c.csv.gz"]["rows"]

    def test_a_profile_without_items_reads_no_product_metadata(self, command: Command, tmp_path: Path) -> None:
        path = text_file("a.csv", as_csv(rows()))(tmp_path)
        refused(command.run("--input", str(path), "--items", str(path)), "product metadata", "items:")
        assert command.snapshots() == []

    @pytest.mark.parametrize("ending", ["csv", "parquet"])
    def test_a_header_without_rows(self, command: Command, tmp_path: Path, ending: str) -> None:
        path = tmp_path / f"a.{ending}"
        if ending == "csv":
            path.write_text(",".join(COLUMNS) + "\n")
        else:
            pq.write_table(pa.Table.from_pylist(rows()).slice(0, 0), path)
        refused(command.run("--input", str(path)), path.name, "0 usable rows")
        assert command.snapshots() == []

    @pytest.mark.nightly  # the stage's own tests say the same of three such tables
    def test_all_reviews_of_one_day_cannot_be_split_by_time(self, command: Command, tmp_path: Path) -> None:
        path = text_file("a.csv", as_csv(rows(300, review_date="2015-01-01")))(tmp_path)
        done = command.run("--input", str(path), "--until", "split")
        refused(done, "too few reviews to split by time", "split.min_rows")
        assert not [p for p in command.snapshots() if p.parts[-3] == "split"]

    @pytest.mark.parametrize("start", [Command.run, pytest.param(Command.run_in_a_process, marks=pytest.mark.nightly)])
    def test_too_many_rejects_are_a_failed_run(
        self, command: Command, tmp_path: Path, start: Callable[..., Done | subprocess.CompletedProcess[str]]
    ) -> None:
        records = rows(200) + rows(50, star_rating="nine")
        path = text_file("a.csv", as_csv(records))(tmp_path)
        done = start(command, "--input", str(path))
        refused(done, "50 of 250 rows", "rating is not a number: 50", "ingest.max_reject_fraction", status=1)
        assert command.snapshots() == []
        records_kept = [json.loads(p.read_text()) for p in (command.storage / "runs").glob("*.json")]
        assert [r["state"] for r in records_kept] == ["failed"]

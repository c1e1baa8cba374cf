"""`raymill data inspect`: what it tells of raw files, and that a profile it proposes can be run with."""

from __future__ import annotations

import datetime as dt
import gzip
import io
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from flows.cli import inspect as inspect_view
from flows.cli import main as cli
from tasks.core.errors import InputError, UserError
from tasks.core.sections import PROJECT
from tasks.domain.schemas import REVIEWS
from tasks.sources import load_profile, locations, readers
from tasks.sources.inspection import Inspection, inspect
from tests.support.inspected_files import as_csv, json_lines, proposed, use, words
from tests.support.raw_files import delimited, review

DATA = PROJECT.parent / "shared" / "data"
REVIEW_2014 = {"reviewerID": "A1", "asin": "B1", "helpful": [1, 2], "reviewText": "fine", "overall": 5.0}
REVIEW_2014 |= {"summary": "Fine", "unixReviewTime": 1366329600, "reviewTime": "04 19, 2013"}
REVIEW_2018 = {k: v for k, v in REVIEW_2014.items() if k != "helpful"} | {"vote": "1,234", "verified": True}
REVIEW_2023 = {"rating": 4.0, "title": "Fine", "text": "fine", "asin": "B1", "parent_asin": "B0", "user_id": "A1"}
REVIEW_2023 |= {"timestamp": 1588687728923, "helpful_vote": 1, "verified_purchase": True}
FINE_FOOD = ["Id", "ProductId", "UserId", "ProfileName", "HelpfulnessNumerator", "HelpfulnessDenominator", "Score"]
FINE_FOOD += ["Time", "Summary", "Text"]
PRODUCT = {"asin": "B1", "title": "Lamp", "price": 9.99, "brand": "Lumo", "categories": [["Home"]]}


def shown(found: Inspection, width: int = 80) -> str:
    text = io.StringIO()
    inspect_view.print_inspection(Console(file=text, width=width), found, ["raw"], None)
    return text.getvalue()


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit status of `raymill data inspect ...`."""
    monkeypatch.setattr("sys.argv", ["raymill", "data", "inspect", *words])
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


class TestShippedProfiles:
    @pytest.mark.parametrize(
        ("name", "records"),
        [("amazon-2014", REVIEW_2014), ("amazon-2018", REVIEW_2018), ("amazon-2023", REVIEW_2023)],
    )
    def test_json_lines_of_a_release_are_known_by_their_keys(
        self, tmp_path: Path, name: str, records: dict[str, Any]
    ) -> None:
        (tmp_path / "a.json.gz").write_bytes(gzip.compress(json_lines(records, records).encode()))
        found = inspect([str(tmp_path)])
        assert found.chosen is not None
        assert (found.chosen.name, found.chosen.rows, found.chosen.usable, found.proposed) == (name, 2, 2, False)

    def test_csv_tsv_and_parquet_of_other_releases_are_known(self, tmp_path: Path) -> None:
        (tmp_path / "us.tsv").write_text(delimited([review()] * 3, "\t", quoted=False, header=False))
        row = [1, "P1", "U1", "Ann", 1, 1, 5, 1303862400, "Good", "Tasty"]
        (tmp_path / "food.csv").write_text(as_csv([FINE_FOOD, row]))
        day = dt.datetime(2020, 1, 2, tzinfo=dt.UTC)
        canonical = {"review_id": "R", "user_id": "U", "item_id": "I", "rating": 5, "title": "", "text": "x"}
        table = pa.Table.from_pylist([canonical | {"timestamp": day}], schema=REVIEWS)
        pq.write_table(table, tmp_path / "canonical.parquet")
        names = {"us.tsv": "amazon-us", "food.csv": "fine-food", "canonical.parquet": "canonical"}
        for file, name in names.items():
            found = inspect([str(tmp_path / file)])
            assert found.chosen is not None
            assert (found.chosen.name, found.chosen.rejected_share) == (name, 0)

    def test_times_in_another_unit_make_the_shipped_profile_unfit(self, tmp_path: Path) -> None:
        in_seconds = [REVIEW_2023 | {"timestamp": 1588687728 + i} for i in range(30)]
        (tmp_path / "a.jsonl").write_text(json_lines(*in_seconds))
        found = proposed(tmp_path)
        assert "timestamp: {unit: s}" in (found.yaml or "")

    def test_a_given_profile_is_judged_even_where_another_fits(self, tmp_path: Path) -> None:
        wrong = [REVIEW_2014 | {"overall": 9.0}, REVIEW_2014 | {"unixReviewTime": 1}, REVIEW_2014]
        (tmp_path / "a.json").write_text(json_lines(*wrong))
        found = inspect([str(tmp_path)], "amazon-2018")
        assert found.chosen is not None
        assert found.chosen.name == "amazon-2018"
        assert found.chosen.reasons == {"rating outside 1..5": 1, "timestamp before 1990-01-01": 1}
        assert found.chosen.rejected_share == pytest.approx(2 / 3)

    def test_values_of_optional_columns_that_are_not_understood_are_counted(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text(delimited([review(helpful_votes="many"), review(helpful_votes="")]))
        found = inspect([str(tmp_path)], "amazon-us")
        assert found.chosen is not None
        assert (found.chosen.usable, found.chosen.lost_values) == (2, 1)
        assert found.chosen.nulls["helpful_votes"] == 1
        assert found.chosen.nulls["total_votes"] == 0


class TestFiles:
    def test_product_metadata_is_told_from_reviews(self, tmp_path: Path) -> None:
        (tmp_path / "products.txt").write_text("".join(f"{PRODUCT | {'asin': f'B{i}'}!r}\n" for i in range(9)))
        (tmp_path / "reviews.txt").write_text(json_lines(*[REVIEW_2014] * 9))
        found = inspect([str(tmp_path)])
        assert found.items == {"products.txt": "amazon-2014"}
        assert found.chosen is not None
        assert (found.chosen.name, found.chosen.rows, found.chosen.usable) == ("amazon-2014", 9, 9)
        assert "--items" in shown(found)

    def test_product_metadata_alone_is_no_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "meta.json").write_text(json_lines(*[PRODUCT] * 5))
        assert run(monkeypatch, str(tmp_path)) == 0

    def test_files_that_would_be_quarantined_are_named_with_the_reason(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text(delimited([review()] * 5))
        (tmp_path / "b.parquet").write_bytes(b"PAR1 cut off")
        (tmp_path / "c.csv").write_bytes(b"")
        found = inspect([str(tmp_path)])
        assert found.chosen is not None
        assert [q.name for q in found.chosen.quarantined] == ["b.parquet", "c.csv"]
        assert "c.csv: the file is empty" in shown(found)

    def test_a_file_that_is_cut_off_is_told(self, tmp_path: Path) -> None:
        packed = gzip.compress(json_lines(*[REVIEW_2014 | {"asin": f"B{i}"} for i in range(3_000)]).encode())
        (tmp_path / "a.json.gz").write_bytes(packed[: len(packed) // 2])
        found = inspect([str(tmp_path)])
        assert "gzip data cut off" in shown(found)

    def test_no_more_of_a_file_is_read_than_the_sample_needs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text(json_lines(REVIEW_2014) * 30_000)
        taken = 0

        class Counting(io.FileIO):
            def read(self, size: int | None = -1) -> bytes:
                nonlocal taken
                data = super().read(size) or b""
                taken += len(data)
                return data

        def counted(name: str) -> BinaryIO:
            return Counting(name)  # type: ignore[return-value]

        monkeypatch.setattr(locations, "open_raw", counted)
        monkeypatch.setattr(readers, "BLOCK_BYTES", 1 << 16)
        found = inspect([str(path)], "amazon-2014", rows=10)
        assert found.chosen is not None
        assert found.chosen.rows == 10
        assert 0 < taken < path.stat().st_size / 4

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
    @given(st.binary(max_size=300) | st.text(alphabet='a1",\n\t;{}[]:"', max_size=80).map(str.encode), st.data())
    def test_any_bytes_are_looked_at_or_refused_in_words(self, tmp_path: Path, raw: bytes, data: st.DataObject) -> None:
        path = tmp_path / f"a.{data.draw(st.sampled_from(['csv', 'tsv', 'json', 'jsonl', 'txt', 'parquet', 'zip']))}"
        path.write_bytes(raw)
        try:
            found = inspect([str(path)], rows=50)
        except InputError:
            return
        finally:
            path.unlink()
        assert found.chosen or found.why_none
        shown(found)


class TestCommand:
    @pytest.fixture
    def raw(self, tmp_path: Path) -> Path:
        rows = [[f"u{i}", f"i{i % 4}", i % 5 + 1, words(i)] for i in range(30)]
        path = tmp_path / "a.csv"
        path.write_text(as_csv([["user", "item", "stars", "text"], *rows]))
        return path

    def test_the_proposal_is_saved_but_never_over_another_file(
        self, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        target = tmp_path / "mine.yaml"
        assert run(monkeypatch, str(raw), "--write", str(target)) == 0
        assert load_profile(str(target)).columns["rating"] == "stars"
        assert run(monkeypatch, str(raw), "--dataset", str(target)) == 0
        target.write_text("mine")
        assert run(monkeypatch, str(raw), "--write", str(target)) == 2
        assert target.read_text() == "mine"
        assert "exists already" in capsys.readouterr().err

    def test_where_a_shipped_profile_fits_a_copy_of_it_is_saved(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a.csv").write_text(delimited([review()] * 5))
        assert run(monkeypatch, str(tmp_path / "a.csv"), "--write", str(tmp_path / "mine.yaml")) == 0
        assert load_profile(str(tmp_path / "mine.yaml")) == load_profile("amazon-us")

    def test_write_makes_no_sense_with_dataset(self) -> None:
        with pytest.raises(UserError, match="--dataset"):
            inspect_view.check_target(Path("mine.yaml"), "amazon-us")

    @pytest.mark.parametrize("text", ["", "\0\0\0\0", "name,price\nLamp,9\nDesk,80\n"])
    def test_what_holds_no_reviews_is_a_users_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
    ) -> None:
        (tmp_path / "a.csv").write_text(text)
        assert run(monkeypatch, str(tmp_path)) == 2
        assert run(monkeypatch, str(tmp_path / "absent")) == 2

    def test_a_given_profile_that_reads_nothing_is_a_users_error(
        self, raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(monkeypatch, str(raw), "--dataset", "amazon-us") == 2
        assert "reads none of these files" in capsys.readouterr().err

    def test_scores_on_no_usual_scale_are_named(self, tmp_path: Path) -> None:
        rows = [[f"u{i}", i * 100 + 1, words(i)] for i in range(30)]
        (tmp_path / "a.csv").write_text(as_csv([["user", "score", "text"], *rows]))
        assert "'score' is not within 1 to 5" in inspect([str(tmp_path)]).why_none

    @pytest.mark.parametrize("width", [80, 120])
    def test_values_cannot_colour_or_break_the_output(self, tmp_path: Path, width: int) -> None:
        nasty = "[red]x[/] \x1b[31m\u202ered\r\n\x07 [/nope] 寿司" * 3
        rows = [[nasty, f"i{i}", i % 5 + 1, nasty] for i in range(30)]
        (tmp_path / "a.csv").write_text(as_csv([["[bold]who\x1b", "item", "stars", "text"], *rows]), newline="")
        output = shown(inspect([str(tmp_path)]), width)
        assert "[red]x[/] \\x1b[31m\\u202e" in output
        assert "[bold]who\\x1b" in output
        assert not {c for c in output if not c.isprintable()} - {"\n"}
        tables = [part for part in output.split("\n\n") if "  empty" in part]
        assert len(tables) == 2
        lines = [line for table in tables for line in table.partition("  empty")[2].splitlines()]
        assert all(cell_len(line) <= width for line in lines)


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "name", "items"),
    [
        ("us-reviews-parquet", "amazon-us", 0),
        ("us-books-csv", "amazon-us", 0),
        ("us-appliances-tsv", "amazon-us", 0),
        ("musical-2014", "amazon-2014", 0),
        ("joined-2014", "amazon-2014", 1),
        ("beauty-2018", "amazon-2018", 0),
        ("truncated-gz-2014", "amazon-2014", 1),
        ("earphones-csv", "proposed", 0),
    ],
)
def test_a_real_release_gets_a_profile_that_rejects_hardly_a_row(
    folder: str, name: str, items: int, tmp_path: Path
) -> None:
    if not (DATA / folder).is_dir():
        pytest.skip(f"no real reviews: {DATA / folder} is absent")
    found = inspect([str(DATA / folder)], rows=5_000)
    assert found.chosen is not None
    assert (found.chosen.name, len(found.items)) == (name, items)
    assert found.chosen.rejected_share < 0.01
    assert len(found.chosen.examples) == 3
    if found.proposed:
        kept, rejected = use(found, DATA / folder, tmp_path)
        assert len(rejected) < 0.01 * len(kept)

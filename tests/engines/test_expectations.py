"""Expectations over whole tables: the counts are those of one frame, and a failure says which values."""

from __future__ import annotations

import itertools
import json
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import SettingsError, ValidationFailed
from tasks.core.settings import CONF
from tasks.domain.schemas import REVIEWS
from tasks.engines import data_docs, validator
from tasks.engines import expectations as subject
from tasks.engines.expectations import Validators, load_suite, raise_on_failure
from tasks.engines.suites import ROW_WISE, Expectation
from tasks.engines.validation import Validation
from tasks.engines.validator import Piece, Validator
from tasks.settings import load_settings

STAGES = [path.stem.replace("_", "-") for path in sorted((CONF / "expectations").glob("*.yaml"))]

SUITE = """
tables:
  "":
    - {type: expect_table_row_count_to_be_between, min_value: 10}
    - {type: expect_column_values_to_not_be_null, column: rating}
    - {type: expect_column_values_to_be_between, column: rating, min_value: 1, max_value: 5}
    - {type: expect_column_values_to_be_between, column: rating, min_value: 1, max_value: 5, mostly: 0.7}
    - {type: expect_column_values_to_be_unique, column: id}
    - {type: expect_column_values_to_not_match_regex, column: text, regex: "<[a-z]+>"}
    - {type: expect_column_pair_values_a_to_be_greater_than_b, column_A: n, column_B: m, or_equal: true}
    - {type: expect_column_mean_to_be_between, column: rating, min_value: 1, max_value: 5}
"""


@pytest.fixture
def table() -> pa.Table:
    """30 rows; rows 4, 11 and 25 have ratings out of range, 7 none; ids 3 and 28 are the same."""
    ratings: list[float | None] = [1.0 + i % 5 for i in range(30)]
    ratings[4], ratings[11], ratings[25], ratings[7] = 9.0, 0.0, 7.5, None
    ids = [f"r{i}" for i in range(30)]
    ids[28] = ids[3]
    texts = ["plain"] * 30
    texts[20] = "a <b> tag"
    return pa.table({"id": ids, "rating": ratings, "text": texts, "n": range(30), "m": [5] * 30, "unused": [None] * 30})


def write_suite(folder: Path, text: str, stage: str = "ratings") -> Path:
    (folder / f"{stage}.yaml").write_text(text)
    return folder


def write_parts(folder: Path, table: pa.Table, starts: list[int]) -> list[Path]:
    files = []
    for number, (start, stop) in enumerate(zip(starts, [*starts[1:], table.num_rows], strict=True)):
        files.append(folder / f"part-{number:05d}.parquet")
        pq.write_table(table.slice(start, stop - start), files[-1], row_group_size=4)
    return files


def great_expectations_alone(suite: subject.Suite, table: pa.Table) -> list[dict[str, Any]]:
    import great_expectations as gx
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    source = gx.get_context(mode="ephemeral").data_sources.add_pandas("alone")
    batch = (
        source.add_dataframe_asset("a")
        .add_batch_definition_whole_dataframe("b")
        .get_batch({"dataframe": table.to_pandas()})
    )
    return [
        batch.validate(ExpectationConfiguration(type=e.type, kwargs=e.kwargs).to_domain_obj()).to_json_dict()
        for e in suite.tables[""]
    ]


@pytest.mark.parametrize("batch_rows", [6, 250_000], ids=["many batches", "one batch"])
def test_counts_over_partitions_equal_those_of_one_frame(
    validators: Validators, table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_rows: int
) -> None:
    monkeypatch.setattr(subject, "BATCH_ROWS", batch_rows)
    suite = load_suite("ratings", write_suite(tmp_path, SUITE))
    validation = validators.validate(suite, {"": write_parts(tmp_path, table, [0, 10, 11, 23])})

    assert validation.rows == {"": 30}
    for ours, alone in zip(validation.results, great_expectations_alone(suite, table), strict=True):
        theirs = alone["result"]
        assert ours["success"] == alone["success"], ours
        if "unexpected_count" in theirs:
            assert ours["element_count"] == theirs["element_count"]
            assert ours["missing_count"] == theirs.get("missing_count", 0)
            assert ours["unexpected_count"] == theirs["unexpected_count"]
            assert ours["unexpected_percent"] == pytest.approx(theirs["unexpected_percent"])
            assert [example["value"] for example in ours["examples"]] == theirs["partial_unexpected_list"]
        else:
            assert ours["observed_value"] == pytest.approx(theirs["observed_value"])
    assert [r["success"] for r in validation.results] == [True, False, False, True, False, False, False, True]
    assert json.loads(json.dumps(validation.results)) == validation.results


def test_an_example_names_its_file_and_row(validators: Validators, table: pa.Table, tmp_path: Path) -> None:
    suite = load_suite("ratings", write_suite(tmp_path, SUITE))
    validation = validators.validate(suite, {"": write_parts(tmp_path, table, [0, 10, 11, 23])})

    assert validation.results[2]["examples"] == [
        {"value": 9.0, "file": "part-00000.parquet", "row": 4},
        {"value": 0.0, "file": "part-00002.parquet", "row": 0},
        {"value": 7.5, "file": "part-00003.parquet", "row": 2},
    ]
    assert [(e["file"], e["row"]) for e in validation.results[4]["examples"]] == [
        ("part-00000.parquet", 3),
        ("part-00003.parquet", 5),
    ]


def test_a_failure_names_the_expectation_the_column_the_values_and_the_docs(
    validators: Validators, table: pa.Table, tmp_path: Path
) -> None:
    suite = load_suite("ratings", write_suite(tmp_path, SUITE))
    validation = validators.validate(suite, {"": write_parts(tmp_path, table, [0])})

    with pytest.raises(ValidationFailed) as caught:
        raise_on_failure("ratings", validation, "file:///docs/index.html")
    message = str(caught.value)
    assert "rating: expect_column_values_to_be_between(min_value=1, max_value=5): 3 of 30 rows" in message
    assert "9.0 (part-00000.parquet, row 4), 0.0 (part-00000.parquet, row 11), 7.5" in message
    assert "file:///docs/index.html" in message
    assert "conf/expectations/ratings.yaml" in message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


def test_a_table_without_files_holds_row_by_row_but_has_no_rows(validators: Validators, tmp_path: Path) -> None:
    suite = load_suite("ratings", write_suite(tmp_path, SUITE))
    validation = validators.validate(suite, {})

    by_type = {result["type"]: result["success"] for result in validation.results}
    assert all(success for kind, success in by_type.items() if kind in ROW_WISE)
    assert by_type["expect_column_values_to_be_unique"]
    assert not by_type["expect_table_row_count_to_be_between"]


def test_a_missing_column_fails_its_expectations_alone(validators: Validators, table: pa.Table, tmp_path: Path) -> None:
    suite = load_suite("ratings", write_suite(tmp_path, SUITE))
    validation = validators.validate(suite, {"": write_parts(tmp_path, table.drop_columns("text"), [0, 10])})

    errors = {result["type"]: result["error"] for result in validation.failures() if result["error"]}
    assert set(errors) == {"expect_column_values_to_not_match_regex"}
    assert "no column 'text'" in errors["expect_column_values_to_not_match_regex"]


def test_an_expectation_that_cannot_be_computed_fails_with_its_reason(
    validators: Validators, table: pa.Table, tmp_path: Path
) -> None:
    text = 'tables: {"": [{type: expect_column_values_to_be_between, column: text, min_value: 3}]}'
    validation = validators.validate(
        load_suite("s", write_suite(tmp_path, text, "s")), {"": write_parts(tmp_path, table, [0])}
    )
    assert not validation.success
    assert validation.results[0]["error"]
    with pytest.raises(ValidationFailed, match="text: expect_column_values_to_be_between"):
        raise_on_failure("s", validation, "docs")


def test_a_refused_value_of_an_argument_is_a_settings_error(
    validators: Validators, table: pa.Table, tmp_path: Path
) -> None:
    text = 'tables: {"": [{type: expect_column_values_to_be_between, column: n, min_value: 1, mostly: 7}]}'
    suite = load_suite("s", write_suite(tmp_path, text, "s"))
    with pytest.raises(SettingsError, match="mostly"):
        validators.validate(suite, {"": write_parts(tmp_path, table, [0])})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tables: [", "not YAML"),
        ("table: {}", "expected `tables:`"),
        ('tables: {"": {type: x}}', "expected `tables:`"),
        ('tables: {"": [expect_x]}', "entry 1"),
        (
            'tables: {"": [{type: expect_column_values_to_be_betwen}]}',
            "did you mean expect_column_values_to_be_between?",
        ),
        ('tables: {"": [{type: expect_column_values_to_be_unique, column: a, moslty: 1}]}', "takes no 'moslty'"),
        ('tables: {"": [{type: expect_column_values_to_be_unique}]}', "needs 'column'"),
        ('tables: {"": [{type: expect_table_columns_to_match_set, column_set: [a]}]}', "unknown expectation"),
        (
            'tables: {"": [{type: expect_column_values_to_be_unique, column: a, severity: warning}]}',
            "severity is fail or warn, not 'warning'",
        ),
    ],
)
def test_a_malformed_suite_is_a_settings_error_that_names_the_file(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_suite("s", write_suite(tmp_path, text, "s"))
    assert said in str(caught.value)
    assert str(tmp_path / "s.yaml") in str(caught.value)


def test_a_stage_without_a_suite_is_a_settings_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"count_words\.yaml"):
        load_suite("count-words", tmp_path)


@pytest.mark.parametrize("stage", STAGES)
def test_great_expectations_takes_every_suite_of_the_project(stage: str) -> None:
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    for expectation in itertools.chain.from_iterable(load_suite(stage).tables.values()):
        ExpectationConfiguration(type=expectation.type, kwargs=expectation.kwargs).to_domain_obj()


def review(**fields: Any) -> dict[str, Any]:
    plain = {"review_id": "r", "user_id": "u", "item_id": "i", "rating": 5.0, "title": "", "text": "Good <3"}
    return {**dict.fromkeys(REVIEWS.names), **plain, "timestamp": datetime(2012, 1, 1, tzinfo=UTC), **fields}


@pytest.mark.parametrize(
    ("fields", "broken"),
    [
        ({}, set()),
        ({"text": "a < b and c > d, €5 & more"}, set()),
        ({"rating": 5.5}, {"rating"}),
        ({"text": "line<br />break"}, {"text"}),
        ({"text": "two  blanks"}, {"text"}),
        ({"timestamp": datetime(1970, 1, 1, tzinfo=UTC)}, {"timestamp"}),
        ({"review_id": "r0"}, {"review_id"}),
    ],
)
def test_the_suite_of_clean_tells_clean_reviews_from_others(
    validators: Validators, tmp_path: Path, fields: dict[str, Any], broken: set[str]
) -> None:
    reviews = [review(review_id=f"r{i}") for i in range(20)] + [review(**fields)]
    pq.write_table(pa.Table.from_pylist(reviews, schema=REVIEWS), tmp_path / "part-00000.parquet")
    validation = validators.validate(load_suite("clean"), {"": [tmp_path / "part-00000.parquet"]})
    assert {result["kwargs"]["column"] for result in validation.failures()} == broken


def test_a_small_table_is_one_call_and_a_large_one_has_even_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [Piece(f"{n}.parquet", (0,), 0, 100) for n in range(10)]
    row_wise = Expectation("expect_column_values_to_not_be_null", {"column": "a"})
    unique = Expectation("expect_column_values_to_be_unique", {"column": "a"})

    assert list(subject.plan({0: row_wise, 1: unique}, pieces)) == [((0, 1), pieces)]
    monkeypatch.setattr(subject, "BATCH_ROWS", 400)
    monkeypatch.setattr(subject, "TABLE_ROWS", 400)
    *batches, whole = subject.plan({0: row_wise, 1: unique}, pieces)
    assert whole == ((1,), pieces)
    assert [numbers for numbers, _ in batches] == [(0,)] * 3
    assert [piece for _, batch in batches for piece in batch] == pieces
    assert {len(batch) for _, batch in batches} <= {3, 4}


def test_data_docs_name_the_failed_column_and_keep_the_newest_runs(
    validators: Validators, table: pa.Table, tmp_path: Path
) -> None:
    suite = load_suite("ratings", write_suite(tmp_path, SUITE))
    validation = validators.validate(suite, {"": write_parts(tmp_path, table, [0, 10])})
    slices = Validation("slices", [{**validation.results[0], "table": "train"}], {"train": 30})
    for day in range(1, 8):
        when = datetime(2024, 1, day, tzinfo=UTC)
        validations = {"ratings": validation, "slices": slices}
        index = validators.write_data_docs(tmp_path / "docs", validations, f"night/{day}", when)

    pages = sorted(page.relative_to(index.parent) for page in index.parent.glob("validations/ratings/*/*/*.html"))
    assert [page.parts[2] for page in pages] == [f"night-{day}" for day in range(3, 8)]
    page = (index.parent / pages[-1]).read_text()
    assert "rating" in page
    assert "9.0 (part-00000.parquet, row 4)" in page
    assert (index.parent / "expectations" / "ratings.html").exists()
    listing = index.read_text()
    assert "rating: expect_column_values_to_be_between" in listing
    assert f'href="{pages[-1].as_posix()}"' in listing
    assert 'href="validations/slices/train/night-7/' in listing


def test_data_docs_show_markup_in_the_data_as_text(tmp_path: Path) -> None:
    shown = {"value": "<script>alert(1)</script> $5 ${x}", "file": "part-00000.parquet", "row": 1}
    counts = {"element_count": 9, "missing_count": 0, "unexpected_count": 1, "unexpected_percent": 11.1}
    result = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "text"}, "success": False}
    rest = {"table": "", "examples": [shown], "observed_value": None, "error": None}
    raised = {**result, **rest, **dict.fromkeys(counts), "examples": [], "error": "<script>alert(2)</script>"}
    validation = Validation("clean", [{**result, **counts, **rest}, raised], {"": 9})

    index = data_docs.write(tmp_path, {"clean": validation}, "night", datetime(2024, 1, 1, tzinfo=UTC))
    (page,) = index.parent.glob("validations/clean/*/*/*.html")
    assert "$5 ${x}" in page.read_text()
    assert "<script>alert" not in page.read_text()


def test_an_entry_is_expected_only_where_its_switch_is_on(tmp_path: Path) -> None:
    text = """
tables:
  "":
    - {type: expect_column_values_to_not_be_null, column: text}
    - {type: expect_column_values_to_not_match_regex, only_if: remove_html, column: text, regex: "<b>"}
"""
    suite = load_suite("s", write_suite(tmp_path, text, "s"))
    for on in (True, False):
        config = load_settings(overrides=[f"clean.remove_html={on}"]).clean
        assert len(suite.under(config).tables[""]) == 1 + on
    with pytest.raises(SettingsError, match="remove_html"):
        suite.under(None)


def test_a_switch_may_be_in_a_part_of_the_section(tmp_path: Path) -> None:
    entry = "{type: expect_column_values_to_not_be_null, column: user_mean, only_if: groups.user}"
    suite = load_suite("s", write_suite(tmp_path, f'tables:\n  "":\n    - {entry}\n', "s"))
    for on in (True, False):
        config = load_settings(overrides=[f"features.groups.user={on}"]).features
        assert len(suite.under(config).tables[""]) == on
    with pytest.raises(SettingsError, match=r"groups\.user"):
        suite.under(load_settings().clean)


def test_the_shipped_suites_name_switches_that_there_are() -> None:
    settings = load_settings()
    for path in (CONF / "expectations").glob("*.yaml"):
        load_suite(path.stem).under(getattr(settings, path.stem, None))


WARNING_SUITE = """
tables:
  "":
    - {type: expect_column_values_to_be_between, column: rating, min_value: 1, max_value: 5, severity: warn}
    - {type: expect_column_values_to_not_be_null, column: rating, severity: warn}
    - {type: expect_column_mean_to_be_between, column: n, max_value: 5, severity: warn}
    - {type: expect_column_values_to_not_be_null, column: text, severity: fail}
"""


def test_what_only_warns_fails_no_stage_and_is_told_with_value_and_limit(
    validators: Validators, table: pa.Table, tmp_path: Path
) -> None:
    suite = load_suite("ratings", write_suite(tmp_path, WARNING_SUITE))
    validation = validators.validate(suite, {"": write_parts(tmp_path, table, [0, 10])})
    assert validation.success
    raise_on_failure("ratings", validation, "docs")
    between, null, mean = validation.warnings()
    assert between == {
        "expectation": "rating: expect_column_values_to_be_between",
        "value": "3 of 30 rows",
        "limit": "min_value=1, max_value=5",
    }
    assert (null["value"], null["limit"]) == ("1 of 30 rows", "every row")
    assert (mean["value"], mean["limit"]) == ("observed 14.5", "max_value=5")
    assert validation.summary()["failed"] == 0
    assert validation.summary()["warnings"] == [between, null, mean]

    night = datetime(2024, 1, 1, tzinfo=UTC)
    index = validators.write_data_docs(tmp_path / "docs", {"ratings": validation}, "night", night)
    assert "fa-exclamation-triangle" in index.read_text()  # neither a failure nor as it should be


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ([f"kanari-{n}" for n in range(2000)], "observed 2,000 value(s)"),
        ({"values": ["kanari-1"]}, "observed 1 value(s)"),
        ("kanari-1", "observed a text of 8 characters"),
        (14.5, "observed 14.5"),
        (None, "observed None"),
    ],
)
def test_a_warning_of_a_whole_column_shows_a_number_but_no_value(seen: Any, said: str) -> None:
    values = [f"value-{n}" for n in range(100)]
    kwargs = {"column": "text", "value_set": values}
    result = {"table": "", "type": "expect_column_distinct_values_to_be_in_set", "kwargs": kwargs, "severity": "warn"}
    found = {"success": False, "unexpected_count": None, "observed_value": seen, "error": None}
    (warned,) = Validation("clean", [{**result, **found}], {}).warnings()
    assert warned["value"] == said
    assert (len(warned["limit"]), warned["limit"][:20]) == (80, "value_set=['value-0'")


def test_a_warning_beside_a_failure_is_no_failure(validators: Validators, table: pa.Table, tmp_path: Path) -> None:
    suite = load_suite("ratings", write_suite(tmp_path, WARNING_SUITE.replace("severity: warn}", "severity: fail}", 1)))
    validation = validators.validate(suite, {"": write_parts(tmp_path, table, [0])})
    with pytest.raises(ValidationFailed, match="1 of 4 expectations failed"):
        raise_on_failure("ratings", validation, "docs")


NUMBERS_SUITE = """
tables:
  "":
    - {type: expect_column_values_to_be_between, column: rating, min_value: 0, max_value: 9}
    - {type: expect_column_values_to_not_be_null, column: n}
    - {type: expect_column_values_to_be_between, column: n, min_value: 0}
    - {type: expect_column_values_to_be_between, column: when, max_value: 2100-01-01T00:00:00Z}
    - {type: expect_column_values_to_be_between, column: large, min_value: 1}
    - {type: expect_column_values_to_not_be_null, column: text, mostly: 0.1}
"""


@pytest.mark.parametrize("frame_rows", [0, 50_000], ids=["witnesses", "whole frame"])
def test_a_validation_has_the_numbers_of_a_night(
    table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frame_rows: int
) -> None:
    monkeypatch.setattr(validator, "FRAME_ROWS", frame_rows)
    when = pa.array([datetime(2012, 1, 1, tzinfo=UTC)] * 30, pa.timestamp("us", "UTC"))
    text, large = pa.array(["a"] * 24 + [None] * 6), pa.array([9_050_904_883_363_853] * 30)  # beyond exact float64
    whole = table.set_column(2, "text", text).append_column("when", when).append_column("large", large)
    files = write_parts(tmp_path, whole, [0])
    suite = load_suite("ratings", write_suite(tmp_path, NUMBERS_SUITE))
    pieces = [Piece(str(files[0]), tuple(range(8)), 0, 30)]
    parts = Validator().check(list(suite.tables[""]), pieces, "here")
    results = [subject._merge("", e, [part], None) for e, part in zip(suite.tables[""], parts, strict=True)]
    known = [rating for rating in table["rating"].to_pylist() if rating is not None]
    assert Validation("ratings", results, {"": 30}).numbers() == {
        "rows": 30,
        "share of nulls of rating": pytest.approx(1 / 30),
        "mean of rating": pytest.approx(sum(known) / 29),
        "mean of n": 14.5,
        "share of nulls of when": 0,
        "share of nulls of large": 0,
        "mean of large": pytest.approx(9_050_904_883_363_853),
        "share of nulls of text": 0.2,
    }

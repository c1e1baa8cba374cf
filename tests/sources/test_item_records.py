"""Product records of three releases: lines, prices, ranks, and what is rejected."""

from __future__ import annotations

import ast
import math
import warnings
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.domain.schemas import ITEMS
from tasks.sources.item_records import MAX_VALUES, ItemColumns, parse_literal, price_of, rank_of, to_items

RELEASES = yaml.safe_load("""
2014:
  {item_id: asin, title: title, brand: brand, price: price, category: "categories[0][0]", sales_rank: salesRank,
   also_viewed: related.also_viewed}
2018:
  {item_id: asin, title: title, brand: brand, price: price, category: "category[0]", sales_rank: rank,
   also_viewed: also_view}
2023:
  {item_id: parent_asin, title: title, brand: store, price: price, category: main_category}
""")


def records(release: int, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    table, rejected = to_items(list(rows), ItemColumns(**RELEASES[release]))
    assert rejected == []
    assert table.schema.equals(ITEMS)
    return table.to_pylist()


# Lines


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"{'asin': 'B1', 'price': 9.49, 'rank': {'Books': 7}}", {"price": 9.49, "rank": {"Books": 7}}),
        (b"""{'asin': 'B1', 'title': "Don't", 'n': [True, (-1, .5)]}""", {"title": "Don't", "n": [True, (-1, 0.5)]}),
        (rb"""{'asin': 'B1', 'title': 'a\'b "c" \xe9 \d'}""", {"title": 'a\'b "c" é \\d'}),
        (b'{"asin": "B1", "price": null, "ok": true}', {"price": None, "ok": True}),
        (b'{"asin": "B1", "price": Infinity}', {"price": math.inf}),
        (b"{'asin': 'B1', 'price': nan, 'n': [-inf, 'nan']}", {"price": None, "n": [-math.inf, "nan"]}),
        (b'{"asin": "B1", "price": NaN}', {"price": None}),
        (b"  {'asin': 'B1'}\r\n", {}),
        ("{'asin': 'B1', 'title': 'Äther 灯'}".encode(), {"title": "Äther 灯"}),
    ],
)  # fmt: skip
def test_a_line_of_json_or_of_a_python_literal_is_its_value(line: bytes, value: dict[str, Any]) -> None:
    assert parse_literal(line) == {"asin": "B1", **value}


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | FLOATS | st.text(max_size=8),
    lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=4), v, max_size=4) | st.tuples(v),
    max_leaves=12,
)
WRITTEN = st.lists(
    st.sampled_from(["'", '"', "\\", "{", "}", "[", "]", ",", ":", " ", "a", "1", "-", ".", "u", "None", "(", ")"])
)


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=4))
def test_what_python_writes_is_read_back(record: dict[str, Any]) -> None:
    assert parse_literal(repr(record).encode("utf-8", "replace")) == record


@given(WRITTEN)
@example(["1", ","])
@example(["(", "1", ",", ")"])
def test_no_literal_means_anything_else_than_to_python(pieces: list[str]) -> None:
    line = "".join(pieces)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = ast.literal_eval(line.strip().removesuffix(",").strip())  # a comma after the literal is dropped
    except (ValueError, SyntaxError, TypeError):
        return
    try:
        assert parse_literal(line.encode()) == expected
    except ValueError:
        return  # sums, tuples of nothing and the like, which repr() of a record never writes


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "neither"),
        (b"{'asin': 'B1', 'title': 'cut o", "neither"),
        (b'{"asin": "B1", "title": "cut o', "neither"),
        (b"{'asin': open('/etc/passwd')}", "neither"),
        (b"__import__('os').getcwd()", "neither"),
        (b"{'asin': B1}", "neither"),
        (b"{['a']: 1}", "neither"),
        (b"{'a': '\x00\"'}", "neither"),
        (b"{'a': " + b"9" * 5000 + b"}", "neither"),
        (b"{'a': '\xe9'}", "not UTF-8"),
        (b"(" * 100_000, "nested too deeply"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b"-" * 100_000 + b"1", "neither"),
        (b"1" + b"+1" * 100_000, "neither"),
        (b"{'a': f'" + b"{1}" * 100_000 + b"'}", "neither"),  # would keep Python's parser busy for minutes
        (b'("",' + b"1," * MAX_VALUES + b")", "more than 100,000 values"),
    ],
    ids=range(16),
)
def test_anything_else_is_an_error_in_plain_words_and_is_not_evaluated(line: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_literal(line)


# Records


def test_a_record_of_2014() -> None:
    row = {
        "asin": "B1",
        "title": "Salt &amp; Pepper",
        "brand": "",
        "price": 9.49,
        "salesRank": {"Books": 64038},
        "related": {"also_bought": ["X"], "also_viewed": ["B2", "B2", "B1"]},
        "categories": [["Books", "Cooking"], ["Kitchen"]],
    }
    expected = {
        "item_id": "B1",
        "title": "Salt & Pepper",
        "brand": None,
        "price": 9.49,
        "category": "Books",
        "sales_category": "Books",
        "sales_rank": 64038,
        "also_viewed": ["B2", "B2", "B1"],
    }
    bare = {"asin": "B2", "salesRank": {}, "related": {}, "categories": [[]]}
    nothing = dict.fromkeys(ITEMS.names)
    assert records(2014, row, bare, {"asin": " B3 "}) == [
        expected,
        {**nothing, "item_id": "B2"},
        {**nothing, "item_id": "B3"},
    ]


def test_a_record_of_2018() -> None:
    row = {
        "asin": "B1",
        "price": "$1,299.00",
        "category": ["Toys &amp; Games", "Kites"],
        "also_view": [],
        "brand": "Acme",
    }
    ranks = ["64,038 in Books (", [">#12,345 in Toys &amp; Games (See Top 100)", ">#7 in Kites"], [], "", None]
    found = records(2018, *({**row, "rank": rank} for rank in ranks))
    assert [(r["sales_rank"], r["sales_category"]) for r in found] == [
        (64038, "Books"),
        (12345, "Toys & Games"),
        (None, None),
        (None, None),
        (None, None),
    ]
    assert {(r["price"], r["category"], r["brand"]) for r in found} == {(1299.0, "Toys & Games", "Acme")}
    assert [r["also_viewed"] for r in found] == [[]] * 5


def test_a_record_of_2023() -> None:
    row = {"parent_asin": "B1", "title": "  ", "store": "Acme", "price": "None", "main_category": "All Beauty"}
    (found,) = records(2023, row)
    assert found == {**dict.fromkeys(ITEMS.names), "item_id": "B1", "brand": "Acme", "category": "All Beauty"}


def test_a_row_of_a_delimited_file_that_holds_its_lists_as_text() -> None:
    row = {"asin": "B1", "categories": "[['Books']]", "related": '{"also_viewed": ["B2"]}', "salesRank": "{'Books': 7}"}
    (found,) = records(2014, row)
    assert (found["category"], found["also_viewed"], found["sales_rank"]) == ("Books", ["B2"], 7)


@pytest.mark.parametrize(
    ("said", "price"),
    [
        (9.49, 9.49), (0, 0.0), (0.0, 0.0), (-0.0, 0.0), (12, 12.0), ("12.99", 12.99), ("$12.99", 12.99),
        ("$1,299.00", 1299.0), ("$ 5", 5.0), ("$1,234,567.8", 1234567.8), ("0", 0.0),
        (-1, None), (math.nan, None), (math.inf, None), (True, None), (None, None), ("None", None), ("", None),
        ("$5 - $10", None), ("$5.00 - $10.00", None), ("from 10.99", None), ("12,99", None), ("-3", None),
        ("nan", None), ("1e400", None), ("9" * 400, None), (10**400, None), ([9.49], None), ({"a": 1}, None),
        (".a-box {}", None),
    ],
)  # fmt: skip
def test_a_price_is_a_finite_number_from_0_up_or_unknown(said: Any, price: float | None) -> None:
    found = price_of(said)
    assert found == price
    assert found is None or math.copysign(1, found) == 1


@pytest.mark.parametrize(
    ("said", "rank"),
    [
        ({"Books": 7}, (7, "Books")), ({"Books": 7, "Music": 8}, (7, "Books")), ({"Books": None, "A": 8}, (8, "A")),
        ({"Books": 7.5}, (None, "Books")), ({"Books": "x"}, (None, "Books")), ({}, (None, None)), (7, (7, None)),
        (7.0, (7, None)), ("1,234", (1234, None)), ("13,052,976inClothing (", (13052976, "Clothing")),
        ("5 inches", (None, None)), (-1, (None, None)), (0, (None, None)), (2**70, (None, None)), (True, (None, None)),
        (math.inf, (None, None)), (math.nan, (None, None)), ("9" * 5000 + " in Books", (None, "Books")),
        (["no", "7 in Books"], (7, "Books")),
    ],
)  # fmt: skip
def test_a_rank_is_a_whole_number_and_names_its_category_where_it_can(said: Any, rank: tuple[Any, Any]) -> None:
    assert rank_of(said) == rank


def test_records_without_an_id_are_rejected_with_the_reason_and_the_others_keep_their_order() -> None:
    rows = [{"asin": "B2"}, {"title": "t"}, {"asin": None}, {"asin": " "}, ["B1"], {"asin": 7}, {"asin": "\ud800"}]
    table, rejected = to_items(rows, ItemColumns(**RELEASES[2014]))
    assert table["item_id"].to_pylist() == ["B2", "7"]
    assert rejected == [(i, "not an object" if i == 4 else "no item_id") for i in (1, 2, 3, 4, 6)]
    assert to_items([], ItemColumns(item_id="asin"))[0].equals(ITEMS.empty_table())


ODD = VALUES | st.sampled_from([math.nan, math.inf, "\ud800", b"x", 2**200, {"Books": 2**200}, ["\udfff", None, 1]])


@given(
    st.lists(st.dictionaries(st.sampled_from(["asin", "title", "price", "salesRank", "related", "categories"]), ODD))
)
def test_no_record_makes_it_fail_and_none_is_lost(rows: list[dict[str, Any]]) -> None:
    table, rejected = to_items(rows, ItemColumns(**RELEASES[2014]))
    table.validate(full=True)
    assert table.num_rows + len(rejected) == len(rows)
    assert all(p is None or (math.isfinite(p) and p >= 0) for p in table["price"].to_pylist())


@pytest.mark.parametrize("path", ["", "a..b", "a[", "a[x]", "[0]", "a[-1]", "a[0]b"])
def test_a_malformed_path_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="not a path"):
        ItemColumns(item_id="asin", title=path)


def test_a_column_that_is_not_an_items_is_refused() -> None:
    with pytest.raises(ValidationError, match="colour"):
        ItemColumns(item_id="asin", colour="c")  # type: ignore[call-arg]

"""Cleaning by hand-checked texts and by property; repeated reviews against a plain loop."""

from __future__ import annotations

import datetime as dt
import random
import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import clean
from tasks.core.schemas import REVIEWS
from tasks.core.settings import CleanConfig
from tasks.core.snapshots import FileSink
from tasks.engines import frames
from tasks.parallel.exchange import exchange_in_process

ALL = {"decode_entities": True, "remove_html": True, "remove_urls": True}


def tidy(text: str, **switches: bool) -> str:
    config = CleanConfig(max_reject_fraction=0.05, **{**ALL, **switches})
    return clean.tidy_text(pl.Series([text]), config)[0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", ""),
        ("   ", ""),
        ("Plain text.", "Plain text."),
        ("salt &amp; pepper", "salt & pepper"),
        ("&quot;best&quot; &#34;ever&#34; &#x22;made&#x22;", '"best" "ever" "made"'),
        ("AT&amp;amp;T &amp;#34;x&amp;#34;", 'AT&T "x"'),
        ("AT&T R&D a & b", "AT&T R&D a & b"),
        ("caf&eacute;&nbsp;noir", "café noir"),
        ("One.<br />Two.<br/>Three.<BR>Four.", "One. Two. Three. Four."),
        ("&lt;br /&gt;Decoded &amp;lt;b&amp;gt;twice&amp;lt;/b&amp;gt;", "Decoded twice"),
        ("<a href=\"http://x.y/z\" class='c'>link</a> and <!-- note -->text", "link and text"),
        ("<span\nclass='x'>over lines</span>", "over lines"),
        ("I <3 this", "I <3 this"),
        ("a < b and c > d, 5<6", "a < b and c > d, 5<6"),
        ("&lt;3 &amp;lt;3", "<3 <3"),
        ("<b unclosed", "<b unclosed"),
        ("See http://example.com/a?b=c&d=e now", "See now"),
        ("HTTPS://EXAMPLE.COM and WWW.example.com/x, end", "and end"),
        ("see http://example.com<br>next", "see next"),
        ("awww. www . nice", "awww. www . nice"),
        ("http is a protocol", "http is a protocol"),
        ("bell\x07 null\x00 escape\x1b[0m next\x85line", "bell null escape [0m next line"),
        ("tab\tline\nfeed\r\nspace  \u00a0\u2003wide\u3000end", "tab line feed space wide end"),
        ("\ufb01 stays", "\ufb01 stays"),  # NFC, not NFKC: the ligature is what was written
        ("Cafe\u0301 A\u030a", "Café Å"),
        ("&#101;&#769; e&#769;", "é é"),
        ("とても良い製品です。", "とても良い製品です。"),
        ("很好 <br> 非常好", "很好 非常好"),
        ("👍🏽 👨\u200d👩\u200d👧 🇩🇪", "👍🏽 👨\u200d👩\u200d👧 🇩🇪"),
        ("שלום &amp; مرحبا", "שלום & مرحبا"),
    ],
)
def test_texts_come_out_as_a_reader_would_expect(given: str, expected: str) -> None:
    assert tidy(given) == expected


DIRTY = "Caf&eacute; &amp;lt;b&amp;gt;<b>bold</b>  http://x.y/z"


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        ({}, "Café bold"),
        ({"decode_entities": False}, "Caf&eacute; &amp;lt;b&amp;gt; bold"),
        ({"remove_html": False}, "Café <b><b>bold</b>"),
        ({"remove_urls": False}, "Café bold http://x.y/z"),
        (dict.fromkeys(ALL, False), "Caf&eacute; &amp;lt;b&amp;gt;<b>bold</b> http://x.y/z"),
    ],
)
def test_each_switch_leaves_its_step_and_no_other_out(switches: dict[str, bool], expected: str) -> None:
    assert tidy(DIRTY, **switches) == expected


ENTITIES = ["&", "&amp;", "&amp", "amp;", "lt;", "&lt;", "&gt;", "&#60;", "&#x3c;", "&#0;", "&#xd800;", "&#", "#38;"]
MARKUP = ["<", "<b", "</", "<!", ">", "/>", "<br />", "http://", "https://", "www.", "HTTP://x", "x.y", "3"]
BLANKS = [" ", "\n", "\x00", "\x85", "\u2028", "\u200b", "&nbsp;"]
COMPOSING = ["e", "\u0301", "\u0338", "&#769;", "&#824;", "\u1100", "\u1161"]
FRAGMENTS = st.sampled_from([*ENTITIES, *MARKUP, *BLANKS, *COMPOSING])
TEXTS = st.lists(FRAGMENTS | st.text(max_size=4), max_size=12).map("".join)
SWITCHES = st.fixed_dictionaries({name: st.booleans() for name in ALL})


@settings(max_examples=800, deadline=None)
@given(TEXTS, SWITCHES)
def test_cleaning_clean_text_changes_nothing(text: str, switches: dict[str, bool]) -> None:
    once = tidy(text, **switches)
    assert tidy(once, **switches) == once


@settings(max_examples=400, deadline=None)
@given(TEXTS)
def test_clean_text_is_composed_and_free_of_control_characters_runs_of_blanks_and_tags(text: str) -> None:
    cleaned = tidy(text)
    assert cleaned == pl.Series([cleaned]).str.normalize("NFC")[0]
    assert not any(unicodedata.category(c) == "Cc" for c in cleaned)
    assert cleaned == " ".join(cleaned.split())
    assert pl.Series([cleaned]).str.count_matches(clean.TAG)[0] == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS, max_size=6), SWITCHES)
def test_a_text_is_cleaned_the_same_alone_and_among_others(texts: list[str], switches: dict[str, bool]) -> None:
    config = CleanConfig(max_reject_fraction=0.05, **switches)
    together = clean.tidy_text(pl.Series(texts, dtype=pl.String), config).to_list()
    assert together == [tidy(t, **switches) for t in texts]


def test_composition_is_of_one_unicode_version_with_entities_and_without() -> None:
    # Todhri OO was given a canonical composition in Unicode 16: two libraries may know different versions.
    assert tidy("&#x105D2;&#x307;") == tidy("\U000105d2\u0307")


# Repeated reviews


def review(i: int, **changes: Any) -> dict[str, Any]:
    return {
        "review_id": f"R{i}",
        "user_id": f"u{i}",
        "item_id": "b",
        "rating": 5.0,
        "title": "t",
        "text": "x",
        "timestamp": dt.datetime(2015, 1, 1, tzinfo=dt.UTC),
        "helpful_votes": None,
        "total_votes": None,
        "verified": None,
        "category": None,
        **changes,
    }


def unique(blocks: list[list[dict[str, Any]]], buckets: int = 4) -> list[dict[str, Any]]:
    """What the stage keeps of these blocks, by its own functions, without Ray."""
    tables = [pa.Table.from_pylist(b, schema=REVIEWS) for b in blocks]
    modin_blocks = [frames.to_pandas(t) for t in tables]
    repeated = exchange_in_process(modin_blocks, clean.split_keys, clean.find_repeats, buckets)
    return [r for t, gone in zip(tables, repeated, strict=True) for r in clean.drop_rows(t, *gone).to_pylist()]


def by_hand(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row is repeated if an earlier row has its review_id, or says the same."""
    seen: set[Any] = set()
    kept = []
    for row in rows:
        keys = {row["review_id"], tuple(row[c] for c in clean.SAID)}
        kept += [] if keys & seen else [row]
        seen |= keys
    return kept


def test_the_same_review_id_is_kept_once_the_first_time() -> None:
    rows = [review(1), review(2), review(1, text="edited", user_id="other"), review(3)]
    assert [(r["review_id"], r["text"]) for r in unique([rows])] == [("R1", "x"), ("R2", "x"), ("R3", "x")]


@pytest.mark.parametrize("column", clean.SAID)
def test_the_same_content_under_another_id_goes_and_any_difference_keeps_it(column: str) -> None:
    other = {"rating": 4.0, "timestamp": dt.datetime(2015, 1, 2, tzinfo=dt.UTC)}.get(column, "different")
    first = review(1)
    again, apart = {**first, "review_id": "R2"}, {**first, "review_id": "R3", column: other}
    assert [r["review_id"] for r in unique([[first, again, apart]])] == ["R1", "R3"]


def test_votes_verified_and_category_do_not_make_a_review_another_one() -> None:
    again = review(1, review_id="R2", helpful_votes=9, total_votes=9, verified=True, category="Books")
    assert [r["review_id"] for r in unique([[review(1), again]])] == ["R1"]


def test_texts_next_to_each_other_do_not_run_together() -> None:
    rows = [review(1, title="ab", text="c"), review(1, review_id="R2", title="a", text="bc")]
    assert len(unique([rows])) == 2


@pytest.mark.parametrize("seed", range(8))
def test_what_is_kept_does_not_depend_on_how_the_rows_are_cut_into_files(seed: int) -> None:
    rng = random.Random(seed)
    rows = [
        review(
            rng.randrange(30), user_id=f"u{rng.randrange(3)}", text=rng.choice("xyz"), rating=float(rng.randint(1, 5))
        )
        for _ in range(120)
    ]
    expected = by_hand(rows)
    assert len(expected) < len(rows)
    for blocks, buckets in ((1, 4), (2, 1), (3, 4), (7, 5)):
        cuts = [0, *sorted(rng.randrange(len(rows) + 1) for _ in range(blocks - 1)), len(rows)]
        assert unique([rows[a:b] for a, b in pairwise(cuts)], buckets) == expected


def test_cleaning_a_file_touches_title_and_text_alone(tmp_path: Path) -> None:
    rows = [review(1, title=" A&amp;B ", text="<b>x</b>  y", user_id=" u&amp;v ", category="C&amp;D"), review(2)]
    FileSink(str(tmp_path)).write_table("part-00000.parquet", pa.Table.from_pylist(rows, schema=REVIEWS))
    config = CleanConfig(max_reject_fraction=0.05, **ALL)
    found = clean.tidy(tmp_path / "part-00000.parquet", config).to_pylist()
    assert found == [{**rows[0], "title": "A&B", "text": "x y"}, rows[1]]

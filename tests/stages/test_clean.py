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
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.domain.schemas import REVIEWS
from tasks.domain.stated_stars import STATED
from tasks.parallel.exchange import exchange_in_process
from tasks.stages.clean import stage as clean
from tasks.stages.clean.settings import CleanConfig
from tasks.stages.clean.text import TAG, tidy_text
from tasks.stages.ingest import row_hashes

STEPS = ("normalize_unicode", "decode_entities", "remove_html", "remove_urls", "remove_control", "collapse_spaces")


def configured(**switches: bool) -> CleanConfig:
    return CleanConfig(**{**dict.fromkeys(CleanConfig.model_fields, True), **switches})


def tidy(text: str, **switches: bool) -> str:
    return tidy_text(pl.Series([text]), configured(**switches))[0]


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
        ({"collapse_spaces": False}, "Café   bold    "),
        (dict.fromkeys(STEPS[1:4], False), "Caf&eacute; &amp;lt;b&amp;gt;<b>bold</b> http://x.y/z"),
        (dict.fromkeys(STEPS, False), DIRTY),
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
SWITCHES = st.fixed_dictionaries({name: st.booleans() for name in STEPS})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("4.0 out of 5 stars Lamp", "Lamp"),
        ("Five Stars", ""),
        ("A lamp. 3,0 von 5 Sternen", "A lamp."),
        ("★★★☆☆ Lamp", "Lamp"),
        ("4.0 out of <b>4.0 out of 5 stars</b> 5 stars Lamp", "4.0 out of Lamp"),
        ("I used 4 of 5 screws", "I used 4 of 5 screws"),
    ],
)
def test_stated_stars_are_removed_if_that_is_asked_for(given: str, expected: str) -> None:
    assert tidy(given) == expected
    assert tidy(given, remove_stated_stars=False, remove_html=False) == given


@given(st.lists(st.sampled_from(["4.0", " ", "out of", "5 stars", "<b>", "five", "-", "★", "x", "/5"]), max_size=12))
def test_no_stated_stars_are_left(pieces: list[str]) -> None:
    cleaned = tidy("".join(pieces))
    assert tidy(cleaned) == cleaned
    assert not pl.Series([cleaned]).str.contains(STATED).any()


@given(TEXTS, SWITCHES)
def test_cleaning_clean_text_changes_nothing(text: str, switches: dict[str, bool]) -> None:
    once = tidy(text, **switches)
    assert tidy(once, **switches) == once


@given(TEXTS)
def test_clean_text_is_composed_and_free_of_control_characters_runs_of_blanks_and_tags(text: str) -> None:
    cleaned = tidy(text)
    assert cleaned == pl.Series([cleaned]).str.normalize("NFC")[0]
    assert not any(unicodedata.category(c) == "Cc" for c in cleaned)
    assert cleaned == " ".join(cleaned.split())
    assert pl.Series([cleaned]).str.count_matches(TAG)[0] == 0


@given(st.lists(TEXTS, max_size=6), SWITCHES)
def test_a_text_is_cleaned_the_same_alone_and_among_others(texts: list[str], switches: dict[str, bool]) -> None:
    given_texts = pl.Series(texts, dtype=pl.String)
    together = tidy_text(given_texts, configured(**switches)).to_list()
    assert given_texts.to_list() == texts  # and the caller's column is as it was
    assert together == [tidy(t, **switches) for t in texts]
    among_many = tidy_text(pl.Series([*texts, *["A plain text."] * 100]), configured(**switches)).to_list()
    assert among_many[: len(texts)] == together


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


def unique(
    folder: Path, blocks: list[list[dict[str, Any]]], buckets: int = 4, **switches: bool
) -> list[dict[str, Any]]:
    """What the stage keeps of these blocks, by its own functions, without Ray."""
    tables = [pa.Table.from_pylist(b, schema=REVIEWS) for b in blocks]
    parts = [folder / f"{i}.parquet" for i in range(len(tables))]
    for part, table in zip(parts, tables, strict=True):
        pq.write_table(row_hashes.of(table), part)
    blocks_of_parts = [[(i, part)] for i, part in enumerate(parts)]
    gone = [list(g) for g in exchange_in_process(blocks_of_parts, clean.split_ids, clean.repeated_ids, buckets)]
    if rule := clean.pair_rule(configured(**switches)):
        left = [clean.without_rows(block, *g) for block, g in zip(blocks_of_parts, gone, strict=True)]
        again = exchange_in_process(left, clean.split_pairs, rule, buckets)
        gone = [[*a, *b] for a, b in zip(gone, again, strict=True)]
    kept = []
    for i, (table, g) in enumerate(zip(tables, gone, strict=True)):
        (described,) = clean.describe(blocks_of_parts[i], *g)
        rows = table.filter(clean.kept_rows(i, table.num_rows, g).to_arrow()).to_pylist()
        assert len(rows) + sum(described["kinds"].values()) == table.num_rows
        kept += rows
    return kept


DAYS = [dt.datetime(2015, 1, day, tzinfo=dt.UTC) for day in (1, 2, 3)]


def test_of_one_review_id_the_latest_is_kept(tmp_path: Path) -> None:
    rows = [review(1), review(2), review(1, text="edited", user_id="other", timestamp=DAYS[1]), review(3)]
    assert [(r["review_id"], r["text"]) for r in unique(tmp_path, [rows])] == [
        ("R2", "x"),
        ("R1", "edited"),
        ("R3", "x"),
    ]


def test_of_one_item_reviewed_twice_by_one_user_the_latest_is_kept(tmp_path: Path) -> None:
    rows = [review(i, user_id="u", text=str(i), timestamp=day) for i, day in enumerate(DAYS)]
    rows.append(review(9, user_id="u", item_id="another"))
    assert [r["review_id"] for r in unique(tmp_path, [rows[::-1]])] == ["R9", "R2"]
    assert len(unique(tmp_path, [rows], drop_repeated_pairs=False)) == 4


@pytest.mark.parametrize("column", row_hashes.SAID)
@pytest.mark.parametrize("pairs", [True, False])
def test_the_same_content_under_another_id_goes_and_any_difference_counts(
    tmp_path: Path, column: str, pairs: bool
) -> None:
    other = {"rating": 4.0, "timestamp": DAYS[1]}.get(column, "different")
    first = review(1)
    again, apart = {**first, "review_id": "R2"}, {**first, "review_id": "R3", column: other}
    kept = {r["review_id"] for r in unique(tmp_path, [[first, again, apart]], drop_repeated_pairs=pairs)}
    same_pair = pairs and column not in row_hashes.PAIR
    assert len(kept) == 1 if same_pair else (len(kept) == 2 and "R3" in kept)


def test_nothing_but_ids_must_be_unique_when_both_switches_are_off(tmp_path: Path) -> None:
    rows = [review(1), review(1, review_id="R2"), review(1, text="again")]
    kept = unique(tmp_path, [rows], drop_duplicates=False, drop_repeated_pairs=False)
    assert sorted(r["review_id"] for r in kept) == ["R1", "R2"]


def test_votes_verified_and_category_do_not_make_a_review_another_one(tmp_path: Path) -> None:
    again = review(1, review_id="R2", helpful_votes=9, total_votes=9, verified=True, category="Books")
    assert len(unique(tmp_path, [[review(1), again]], drop_repeated_pairs=False)) == 1


def test_texts_next_to_each_other_do_not_run_together(tmp_path: Path) -> None:
    rows = [review(1, title="ab", text="c"), review(1, review_id="R2", title="a", text="bc")]
    assert len(unique(tmp_path, [rows], drop_repeated_pairs=False)) == 2


def by_hand(rows: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
    """(user, item, time) of what is left: the latest of each review_id, and of those the latest of each pair."""
    for key in (("review_id",), row_hashes.PAIR):
        latest: dict[Any, dict[str, Any]] = {}
        for row in rows:
            name = tuple(row[c] for c in key)
            if name not in latest or row["timestamp"] > latest[name]["timestamp"]:
                latest[name] = row
        rows = list(latest.values())
    return {(r["user_id"], r["item_id"], r["timestamp"]) for r in rows}


ROWS = st.lists(
    st.builds(
        review,
        st.integers(0, 12),
        user_id=st.sampled_from("uvw"),
        item_id=st.sampled_from("bc"),
        text=st.sampled_from("xyz"),
        rating=st.sampled_from([1.0, 5.0]),
        timestamp=st.sampled_from(DAYS),
    ),
    max_size=40,
)


def content(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return sorted(tuple(map(str, r.values())) for r in rows)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(rows=ROWS, seed=st.integers(0, 9), pairs=st.booleans())
def test_what_is_kept_depends_neither_on_order_nor_on_partitioning(
    tmp_path: Path, rows: list[dict[str, Any]], seed: int, pairs: bool
) -> None:
    rng = random.Random(seed)
    expected = content(unique(tmp_path, [rows], 1, drop_repeated_pairs=pairs))
    for blocks, buckets in ((1, 4), (2, 1), (3, 4), (7, 5)):
        shuffled = rng.sample(rows, len(rows))
        cuts = [0, *sorted(rng.randrange(len(rows) + 1) for _ in range(blocks - 1)), len(rows)]
        cut = [shuffled[a:b] for a, b in pairwise(cuts)]
        assert content(unique(tmp_path, cut, buckets, drop_repeated_pairs=pairs)) == expected


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(rows=ROWS)
def test_the_latest_are_kept_as_a_plain_loop_keeps_them(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    # Two rows of one id at one time may differ in their pair: then the plain loop cannot know which one wins.
    once = {(r["review_id"], r["timestamp"]): r for r in rows}
    kept = unique(tmp_path, [list(once.values())])
    assert {(r["user_id"], r["item_id"], r["timestamp"]) for r in kept} == by_hand(list(once.values()))
    assert len(kept) == len(by_hand(list(once.values())))


def test_rows_keep_their_order(tmp_path: Path) -> None:
    rows = [review(i) for i in random.Random(3).sample(range(50), 50)]
    assert unique(tmp_path, [rows[:20], rows[20:]]) == rows

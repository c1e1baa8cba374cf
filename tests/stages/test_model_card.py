"""The model card: what it says, and that no data can become markup in it."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pytest
from markdown_it import MarkdownIt

from tasks.core.storage.store import SnapshotStore
from tasks.stages.register.candidate import Candidate
from tasks.stages.register.gates import Champion, Gate, Measured
from tasks.stages.register.model_card import escape, render, shortened
from tasks.stages.register.stage import Decision

HOSTILE = (
    'x |<script>alert("1")</script> **b** [a](javascript:alert(1)) ![i](http://h/i.png) `c`\n# h1\n- li & \x00~~s~~'
)
NOTHING: dict[str, Any] = {
    "inputs": (),
    "config": {},
    "config_digest": "",
    "code": {},
    "deterministic": True,
    "seconds": {},
    "committed_at": "",
}
GATES = (Gate("gain over predict-the-mean", 0.9, 0.98, True), Gate("slice", 1.2, 1.05, False, HOSTILE))


def card(store: SnapshotStore, name: str = "Books", **facts: Any) -> str:
    def put(stage: str, tables: dict[str, pa.Table], **facts: Any) -> Any:
        out = store.open_attempt(stage, "k")
        for table, rows in tables.items():
            out.write_table(f"{table}/part-00000.parquet", rows)
        out.fact(**facts)
        return store.commit(out, **NOTHING)

    left_out = pa.table({"review_id": ["a", "b"], "reason": ["repeats", "repeats"]})
    splits = {
        "rows": {"train": 8000, "valid": 1000, "test": 1000},
        "borders": {"train_until": "2014-01-01T00:00:00+00:00", "valid_until": "2014-03-01T00:00:00+00:00"},
        "groups": {"text": ["n_chars"], name: [name]},
        "near_duplicates": {"groups": 4, "test": 17},
        **facts,
    }
    measures = {
        "tuned": {"rmse": {"value": 0.9, "low": 0.85, "high": 0.95}, "mae": {"value": 0.6, "low": None, "high": None}},
        "mean": {"rmse": {"value": 1.1, "low": 1.0, "high": 1.2}},
    }
    slices = pa.table(
        {
            "slice": [f"category {name}", "new user"],
            "rows": [600, 400],
            "loss_mean": [1.1, 1.1],
            "loss_linear": pa.array([None, None], pa.float64()),
            "loss_tuned": [1.4, 0.8],
            "warning": [True, False],
        }
    )
    candidate = Candidate(
        put("refit", {}, features=["n_chars", name], params={"eta": 0.1, name: name}, rounds=120),
        put("split", {"left_out": left_out}, **splits),
        put("evaluate", {"slices": slices}, rows=1000, target="rating", metric="rmse", measures=measures),
        put("package", {}, bytes=1),
        put("prove", {}, rows=1000),
        about={"data set": name},
    )
    decision = Decision("7", False, GATES)
    rival = Champion("6", 0.95, problem="")
    return render(
        decision, "raymill-rating", candidate, Measured(0.9, 1.1, None, {}, 123_000, {1: 0.25, 1000: 3.5}), rival
    )


def test_it_says_what_a_reader_needs_to_trust_the_model_or_not(store: SnapshotStore) -> None:
    text = card(store)
    for said in (
        "# raymill-rating, version 7",
        "**Challenger**",
        "| **this model** | 0.9000 (0.8500–0.9500) | 0.6000 |",
        "| predict-the-mean | 1.1000 (1.0000–1.2000) | – |",
        "| champion before it, version 6 | 0.9500 | – |",
        "| category Books | 600 | 1.1 | 1.4 | **much worse** |",
        "test: 1,000 reviews",
        "2014-03-01",
        "2 reviews were left out of the splits",
        "17 test reviews nearly repeat",
        "must not decide about people",
        "0.25 ms for 1 row",
        "| rounds | 120 |",
        "text: n\\_chars",
        "**not passed**",
    ):
        assert said in text, said
    for digest in re.findall(r"\| `(\w+)` \|", text):
        assert len(digest) == 64
    assert "linear baseline" not in text  # it was not scored


def test_it_says_that_product_metadata_is_from_after_the_reviews(store: SnapshotStore) -> None:
    known = "day when the product metadata was collected"
    assert known in card(store, groups={"catalogue": ["category_mean", "price"]})
    assert known not in card(SnapshotStore(store.root / "other"), groups={"catalogue": ["category_mean"]})


def test_no_data_can_become_markup(store: SnapshotStore) -> None:
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    plain = reader.parse(card(store))
    hostile = reader.parse(card(SnapshotStore(store.root / "other"), HOSTILE))

    def shape(tokens: list[Any]) -> list[str]:
        kinds = [t.type for t in tokens]
        return kinds + [c.type for t in tokens for c in t.children or () if c.type != "text"]

    assert sorted(shape(hostile)) == sorted(shape(plain))


@pytest.mark.parametrize("text", [HOSTILE, "a_b", "1 * 2", "$x$", "a\r\nb", "\u202e\u200bright to left"])
def test_an_escaped_text_is_one_line_and_reads_as_it_was(text: str) -> None:
    import html

    escaped = escape(text, longest=1000)
    assert "\n" not in escaped
    shown = MarkdownIt("commonmark").renderInline(escaped)
    cleaned = re.sub(r"[\x00\u202e\u200b]", "", " ".join(text.split()))
    assert html.unescape(shown) == cleaned


def test_a_long_value_is_cut() -> None:
    assert escape("x" * 500) == "x" * 79 + "…"


def test_a_card_that_is_too_long_for_the_database_says_where_the_rest_is() -> None:
    whole = "\n".join(f"line {i}" for i in range(1000))
    cut = shortened(whole, 500, "model_card.md")
    assert len(cut) <= 500
    assert "model_card.md" in cut
    lines = cut.split("\n\n…")[0].splitlines()
    assert lines == whole.splitlines()[: len(lines)]
    assert shortened("short", 500, "x") == "short"

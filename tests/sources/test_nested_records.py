"""Nested records: profiles name their values by paths, in every format that nests, and inspect proposes the paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import InputError
from tasks.sources.paths import MOST_PATHS, flattened, value_at
from tasks.sources.readers import Reading
from tests.support.accounts import read_all
from tests.support.inspected_files import proposed, use, words

PROFILE = """
description: nested
columns:
  user_id: author.id
  item_id: item
  rating: "scores[0].stars"
  title: said.head
  text: said.body.text
  timestamp: created.$date
timestamp: {formats: ["%Y-%m-%d"]}
defaults: {text: ""}
votes: {pair: said.votes}
"""


def record(i: int) -> dict[str, Any]:
    return {
        "author": {"id": f"u{i % 9}", "name": "Ann"},
        "item": f"i{i % 4}",
        "scores": [{"stars": i % 5 + 1}, {"stars": 1}],
        "said": {"head": f"Title {i}", "body": {"text": words(i)}, "votes": [i, i + 1]},
        "created": {"$date": "2019-03-01"},
    }


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path, row_group_size=20)
    elif path.suffix == ".txt":
        path.write_text("".join(f"{r!r}\n" for r in records))
    elif path.suffix == ".json":
        path.write_text(json.dumps({"count": len(records), "page": {"reviews": records}}))
    else:
        path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


@pytest.fixture
def profile(tmp_path: Path) -> str:
    (tmp_path / "mine.yaml").write_text(PROFILE)
    return str(tmp_path / "mine.yaml")


@pytest.mark.parametrize("ending", ["jsonl", "json", "txt", "parquet"])
@pytest.mark.parametrize("at_once", [True, False])
def test_paths_lead_to_values_in_every_format(
    tmp_path: Path, profile: str, ending: str, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not at_once:
        monkeypatch.setattr(Reading, "_parquet_at_once", lambda self: None)
    found = read_all(write(tmp_path / f"a.{ending}", [record(i) for i in range(60)]), profile)
    got = [(r["user_id"], r["rating"], r["title"], r["text"], r["helpful_votes"], r["total_votes"]) for r in found.kept]
    assert got == [(f"u{i % 9}", i % 5 + 1, f"Title {i}", words(i), i, i + 1) for i in range(60)]
    assert (found.rejected, found.damage) == ([], {})


@pytest.mark.parametrize("ending", ["jsonl", "txt", "parquet"])
def test_missing_objects_and_short_lists_have_no_values(tmp_path: Path, profile: str, ending: str) -> None:
    odd = [record(0), record(1) | {"author": None}, record(2) | {"scores": []}, record(3) | {"said": None}]
    found = read_all(write(tmp_path / f"a.{ending}", odd), profile)
    assert found.reasons == [(1, "no user_id"), (2, "no rating")]
    assert [(row["user_id"], row["title"], row["text"]) for row in found.kept][1] == ("u3", "", "")


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
def test_a_column_of_the_whole_name_comes_first(tmp_path: Path, ending: str) -> None:
    (tmp_path / "mine.yaml").write_text(
        PROFILE.replace("scores[0].stars", "scores[0]").replace("  title: said.head\n", "")
    )
    flat = {"author.id": "u", "item": "i", "scores[0]": 4, "said.body.text": "Hi", "created.$date": "2019-03-01"}
    path = tmp_path / f"a.{ending}"
    if ending == "csv":
        path.write_text(",".join(flat) + "\n" + ",".join(map(str, flat.values())) + "\n")
    else:
        write(path, [flat | {"author": {"id": "wrong"}}])
    (row,) = read_all(path, str(tmp_path / "mine.yaml")).kept
    assert (row["user_id"], row["rating"], row["text"]) == ("u", 4, "Hi")


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_path_that_leads_nowhere_or_to_an_object_is_told(tmp_path: Path, profile: str, ending: str) -> None:
    lacking = [{k: v for k, v in record(i).items() if k != "author"} for i in range(9)]
    with pytest.raises(InputError, match=r"missing: author\.id"):
        read_all(write(tmp_path / f"a.{ending}", lacking), profile)
    if ending == "parquet":
        (tmp_path / "mine.yaml").write_text(PROFILE.replace("author.id", "author"))
        with pytest.raises(InputError, match="column 'author' has type struct"):
            read_all(write(tmp_path / "a.parquet", [record(0)]), profile)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_paths_are_proposed_by_the_names_in_them(tmp_path: Path, ending: str) -> None:
    records = [
        {
            "_id": {"$oid": f"{i:024x}"},
            "consumer": {"id": f"u{i % 9}"},
            "product": {"sku": f"i{i % 4}", "price": 3.5},
            "ratings": {"overall": {"$numberInt": str(i % 5 + 1)}},
            "content": {"title": f"Title {i}", "body": words(i)},
            "created": {"$date": "2019-03-01T10:00:00Z"},
        }
        for i in range(60)
    ]
    path = write(tmp_path / f"a.{ending}", records)
    found = proposed(path)
    assert found.chosen is not None
    assert found.chosen.profile.columns == {
        "review_id": "_id.$oid",
        "user_id": "consumer.id",
        "item_id": "product.sku",
        "rating": "ratings.overall.$numberInt",
        "title": "content.title",
        "text": "content.body",
        "timestamp": "created.$date",
    }
    kept, rejected = use(found, path, tmp_path)
    assert ([row["text"] for row in kept], rejected) == ([words(i) for i in range(60)], [])


def test_objects_keyed_by_ids_make_no_column_an_id() -> None:
    known: dict[str, None] = {}
    for i in range(1000):
        flat = flattened({"rank": {f"id{i}": 1, "a.b": 2, "[x]": 3}, "n": 1}, known)
        assert flat["n"] == 1
    assert len(known) == MOST_PATHS


@pytest.mark.parametrize("name", ["a..b", "[0]", "a[x]", "Price [$]", ".", "a.b.c"])
def test_any_name_may_be_asked_for(name: str) -> None:
    assert value_at({"a": {"b": 3}}, name) is None
    assert value_at({name: 7}, name) == 7

"""Users to forget: their rows are counted and leave no other trace, whatever the file; other rows stay as they were."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from tasks import sources
from tasks.core.errors import InputError
from tasks.settings import load_settings
from tasks.sources.forgotten import Forgotten, load
from tasks.stages.ingest import read_parts
from tasks.stages.ingest.stage import ingest
from tests.support.raw_files import delimited, read, review, write_parquet

HER = "A1NELLIE-X"
ROWS = [
    review(review_id="R1", customer_id="other"),
    review(review_id="R2", customer_id=HER, review_body="zanzibarite"),
    review(review_id="R3", customer_id=f"  {HER} ", star_rating="nan", review_body="zanzibarite"),  # a reject
    review(review_id="R4", customer_id="other", star_rating="nan"),
    review(review_id="R5", customer_id=f"{HER}2"),  # another user
]


def listed(*users: str) -> Forgotten:
    return Forgotten().with_users(users, [])


def loaded(path: Path, forgotten: Forgotten | None, dataset: str = "amazon-us") -> list[sources.Loaded]:
    config = load_settings().ingest
    source = sources.discover(str(path), dataset, config)
    period = sources.Period.of(config.earliest, config.latest)
    recipe = sources.Recipe("reviews", source.profile, config, period, forgotten=forgotten)
    return [sources.Loaded(part, recipe) for part in sources.plan(source)]


def rows_of(parts: list[sources.Loaded]) -> tuple[list[dict[str, object]], list[dict[str, object]], int, int]:
    """(usable rows, rejects, forgotten rows, all rows)"""
    kept = [row for part in parts for block in part.blocks() for row in block.to_pylist()]
    accounts = [account for part in parts for account in part.accounts]
    rejected = [row for account in accounts for table in account.rejects for row in table.to_pylist()]
    return kept, rejected, sum(a.forgotten for a in accounts), sum(a.rows for a in accounts)


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl"])
def test_a_users_rows_are_neither_usable_nor_rejected_but_counted(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        write_parquet(path, ROWS)
    elif ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        path.write_text(delimited(ROWS, "," if ending == "csv" else "\t"))
    before = read(path)
    kept, rejected, gone, rows = rows_of(loaded(path, listed(HER)))
    assert [row["review_id"] for row in kept] == ["R1", "R5"]
    assert [row for row in before[0] if row["user_id"] != HER] == kept
    assert [row["row"] for row in rejected] == [3]  # numbered as in the file
    assert (gone, rows) == (2, 5)
    assert HER not in str(rejected)
    assert "zanzibarite" not in str([kept, rejected])


def test_a_record_that_is_no_row_is_theirs_if_it_names_them(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = json.dumps(ROWS[0])
    broken = [f'{{"customer_id": "{HER}", "review_body": "zanzibarite', f'{{"customer_id": "not{HER}", "x']
    path.write_text("\n".join([good, *broken, good]) + "\n")
    _, rejected, gone, rows = rows_of(loaded(path, listed(HER)))
    assert (gone, rows, len(rejected)) == (1, 4, 1)
    assert "zanzibarite" not in str(rejected)


def test_a_user_without_a_name_is_forgotten_by_the_one_that_the_profile_gives(tmp_path: Path) -> None:
    profile = tmp_path / "mine.yaml"
    shipped = (Path("conf/datasets/amazon-us.yaml")).read_text()
    profile.write_text(f"{shipped}\nmissing_user: anonymous\n")
    path = tmp_path / "reviews.csv"
    path.write_text(delimited([review(review_id="R1", customer_id=""), review(review_id="R2", customer_id="")]))
    kept, _, gone, _ = rows_of(loaded(path, listed("anonymous:R1"), str(profile)))
    assert ([row["user_id"] for row in kept], gone) == (["anonymous:R2"], 1)


def test_the_list_names_nobody_and_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "data" / "forgotten.json"
    first = listed(HER)
    first.save(path)
    assert HER not in path.read_text()
    assert load(path) == first
    more = first.with_users(["other"], ["part"])
    assert (more.salt, len(more.users), more.parts) == (first.salt, 2, {"part"})
    assert more.among([HER, "other", "third"]) == {HER, "other"}
    assert listed(HER).users != first.users  # another list has another salt
    assert load(tmp_path / "none.json") is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"salt": "zz", "users": [], "parts": []}', '{"salt": "00"}'])
def test_a_damaged_list_stops_the_run_as_the_users_would_come_back(tmp_path: Path, content: str) -> None:
    path = tmp_path / "forgotten.json"
    path.write_text(content)
    with pytest.raises(InputError, match="users to forget"):
        load(path)


def test_only_the_parts_that_held_a_user_are_read_again(tmp_path: Path) -> None:
    for number in range(3):
        noise = random.Random(number).randbytes(3 << 20).hex()  # a part of its own
        write_parquet(tmp_path / f"{number}.parquet", [*ROWS, review(review_body=noise)])
    config = load_settings().ingest
    source = sources.discover(str(tmp_path), "amazon-us", config)
    before = read_parts.part_identities(ingest, source, config)
    assert len(before) == 3
    once = replace(source, forgotten=Forgotten().with_users([HER], before[:1]))
    after = read_parts.part_identities(ingest, once, config)
    assert after[1:] == before[1:]
    assert after[0] not in before
    twice = replace(source, forgotten=once.forgotten.with_users(["other"], after[:1]))
    again = read_parts.part_identities(ingest, twice, config)
    assert again[0] not in {before[0], after[0]}
    assert len({source.digest, once.digest, twice.digest}) == 3
    assert replace(source, forgotten=None).digest == source.digest

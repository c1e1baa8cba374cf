"""Blocks of token ids through the stage `pack-tokens` on a real Ray session, read as a trainer would."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tasks.core.errors import SettingsError
from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore, damaged_files
from tasks.domain.schemas import TOKENS
from tasks.engines import expectations
from tasks.stages.pack_tokens import PackTokensConfig, pack_tokens
from tests.support.stage_runs import made, put, settings

GPT2 = {"end_of_text": 50256, "vocabulary": 50257}
SIZE = 64
CUTS = (0, 150, 151, 152, 330)


def some_reviews(n: int) -> list[list[int]]:
    rng = random.Random(3)
    lengths = [0, 5 * SIZE, *(rng.randrange(60) for _ in range(n - 2))]
    return [[rng.randrange(50256) for _ in range(length)] for length in lengths]


def tokenized(
    store: SnapshotStore, reviews: list[list[int]], *cuts: int, facts: dict[str, int | None] | None = None
) -> Snapshot:
    rows = [{"review_id": f"R{i}", "input_ids": ids, "n_tokens": len(ids)} for i, ids in enumerate(reviews)]
    edges = [0, *cuts, len(rows)]
    parts = [pa.Table.from_pylist(rows[a:b], schema=TOKENS) for a, b in pairwise(edges)]
    return put(store, "tokenize", {"": parts}, facts=GPT2 if facts is None else facts)


def stream_of(reviews: list[list[int]], size: int) -> list[int]:
    flat = [i for ids in reviews for i in [*ids, GPT2["end_of_text"]]]
    return flat + [GPT2["end_of_text"]] * (-len(flat) % size)


def config(format: str, size: int = SIZE) -> PackTokensConfig:
    return settings(f"pack_tokens.format={format}", f"pack_tokens.block_size={size}").pack_tokens


@pytest.mark.usefixtures("ray_session")
class TestOnRay:
    def test_tokens_bin_maps_into_memory_as_the_reviews_in_a_row(self, store: SnapshotStore, tmp_path: Path) -> None:
        reviews = some_reviews(400)
        expected = stream_of(reviews, SIZE)
        done = made(store, pack_tokens, [tokenized(store, reviews, *CUTS)], config("bin")).snapshot

        mapped = np.memmap(done.path("tokens.bin"), dtype=np.dtype(done.facts["dtype"]), mode="r")
        assert mapped.tolist() == expected
        assert done.facts == {"dtype": "uint16", "block_size": SIZE, **GPT2}
        tokens = sum(len(ids) for ids in reviews)
        assert done.manifest.counts == {
            "documents": 400,
            "tokens": tokens,
            "blocks": len(expected) // SIZE,
            "padding": len(expected) - tokens - 400,
        }
        assert damaged_files(Path(done.folder), done.manifest, full=True) == []
        # Another cut, another number of tasks: the same bytes.
        other = SnapshotStore(tmp_path / "other")
        whole = made(other, pack_tokens, [tokenized(other, reviews)], config("bin")).snapshot
        assert whole.digest == done.digest

    def test_the_table_has_the_same_blocks_one_a_row(
        self, store: SnapshotStore, validators: expectations.Validators
    ) -> None:
        reviews = some_reviews(400)
        done = made(store, pack_tokens, [tokenized(store, reviews, *CUTS)], config("parquet")).snapshot
        table = done.read()
        assert table.schema.equals(pa.schema([pa.field("input_ids", pa.list_(pa.int32(), SIZE), nullable=False)]))
        blocks = table["input_ids"].combine_chunks().flatten().to_numpy().reshape(-1, SIZE)
        assert blocks.ravel().tolist() == stream_of(reviews, SIZE)
        assert done.facts["dtype"] == "int32"
        assert done.rows() == done.manifest.counts["blocks"] == len(blocks)
        # The files between two borders that are one review apart begin no block of their own.
        assert [e.name for e in done.entries()] == [f"part-{i:05d}.parquet" for i in range(len(done.entries()))]
        assert 1 < len(done.entries()) < len(CUTS) + 1
        assert validators.validate(expectations.load_suite("pack-tokens"), {"": done.files()}).success

    @pytest.mark.parametrize("format", ["bin", "parquet"])
    def test_no_reviews_make_a_snapshot_of_no_blocks(self, store: SnapshotStore, format: str) -> None:
        done = made(store, pack_tokens, [tokenized(store, [])], config(format)).snapshot
        assert done.manifest.counts == {"documents": 0, "tokens": 0, "blocks": 0, "padding": 0}
        assert [(e.name, e.rows) for e in done.manifest.files] == [
            ("tokens.bin", None) if format == "bin" else ("part-00000.parquet", 0)
        ]

    def test_without_an_end_of_text_nothing_is_committed(self, store: SnapshotStore) -> None:
        given = tokenized(store, [[1]], facts={"end_of_text": None, "vocabulary": 30_522})
        with pytest.raises(SettingsError, match="no end-of-text"):
            made(store, pack_tokens, [given], config("bin"))
        assert [s.stage for s in store] == ["tokenize"]


def test_until_pack_tokens_while_it_is_switched_off_says_how_to_switch_it_on(tmp_path: Path) -> None:
    from flows.etl_train import etl_train

    given = settings(f"storage.root={tmp_path}")
    with pytest.raises(SettingsError, match=r"--until: pack-tokens is switched off\n.*pack_tokens\.enabled=true"):
        etl_train.fn(settings=given, until="pack-tokens")
    assert not (tmp_path / "snapshots").exists()

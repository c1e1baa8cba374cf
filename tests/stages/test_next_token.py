"""Next tokens without Ray: blocks in both formats, rows of a context's length, known ids, and perplexity by slice."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import RowsLost, SettingsError
from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.domain.schemas import TOKENS
from tasks.stages.next_token import blocks as blocks_module
from tasks.stages.next_token.blocks import Blocks, ranges_of, read_blocks
from tasks.stages.next_token.slices import measured
from tests.support.stage_runs import put, put_reviews

pytest.importorskip("torch", reason="the extra deep is not installed")

SIZE, TOTAL = 7, 9


def packed(store: SnapshotStore, kind: str) -> Snapshot:
    """Blocks of 7 ids, which count from 0; of the last block, two are padding."""
    ids = np.arange(SIZE * TOTAL).reshape(TOTAL, SIZE)
    if kind == "bin":
        files, tables, dtype = {"tokens.bin": ids.astype("<u2").tobytes()}, {}, "uint16"
    else:
        schema = pa.schema([pa.field("input_ids", pa.list_(pa.int32(), SIZE))])
        parts = [pa.table({"input_ids": [row.tolist() for row in rows]}, schema) for rows in (ids[:4], ids[4:])]
        files, tables, dtype = {}, {"": parts}, "int32"
    out = store.open_attempt("pack-tokens", kind)
    for name, data in files.items():
        out.write_bytes(name, data)
    for parts in tables.values():
        for i, part in enumerate(parts):
            out.write_table(f"part-{i:05d}.parquet", part)
    out.count(blocks=TOTAL)
    out.fact(dtype=dtype, block_size=SIZE)
    nothing: dict[str, Any] = {"inputs": (), "config": {}, "config_digest": "", "code": {}, "seconds": {}}
    return store.commit(out, **nothing, deterministic=True, committed_at="")


def read(snapshot: Snapshot, rank: int, world_size: int) -> list[pa.Table]:
    records = [{name: np.array([value]) for name, value in record.items()} for record in ranges_of(snapshot)]
    return [read_blocks(record, rank=rank, world_size=world_size) for record in records]


@pytest.mark.parametrize("kind", ["bin", "parquet"])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_read_every_block_once(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch, kind: str, world_size: int
) -> None:
    monkeypatch.setattr(blocks_module, "RANGE_IDS", 2 * SIZE)
    snapshot = packed(store, kind)
    parts = [Blocks.of(read(snapshot, r, world_size), r, world_size, SIZE, TOTAL, 61) for r in range(world_size)]
    number = np.concatenate([part.number for part in parts])
    ids = np.concatenate([part.ids for part in parts])[np.argsort(number)]
    assert ids.ravel().tolist() == list(range(SIZE * TOTAL))
    with pytest.raises(RowsLost, match="rank 0"):
        Blocks.of(read(snapshot, 0, world_size)[:-1], 0, world_size, SIZE, TOTAL, 61)


@pytest.mark.parametrize("context", [1, 2, 3, 4, 6])
def test_every_id_but_a_blocks_first_is_predicted_once_and_no_padding(store: SnapshotStore, context: int) -> None:
    blocks = Blocks.of(read(packed(store, "bin"), 0, 1), 0, 1, SIZE, TOTAL, written=61)
    rows = blocks.rows(np.array([0, 8]), context)
    assert rows.ids.shape == rows.following.shape == rows.counts.shape
    assert rows.ids.shape[1] == context
    assert sorted(rows.following[rows.counts].tolist()) == [1, 2, 3, 4, 5, 6, 57, 58, 59, 60]
    assert (rows.following == rows.ids + 1)[rows.counts].all()
    assert (rows.position == rows.following)[rows.counts].all()  # the ids count from 0


def test_a_resumed_training_sees_what_the_first_one_would_have_seen(store: SnapshotStore) -> None:
    from tasks.stages.next_token.worker import Sequences, folds_of

    rows = Blocks.of(read(packed(store, "bin"), 0, 1), 0, 1, SIZE, TOTAL, 61).rows(np.arange(9), 3)
    batches = Sequences(rows, folds_of(np.array([5, 3]), 63), 4, seed=2, rank=0)
    seen = list(islice(batches(0), 12))
    for again, before in zip(islice(batches(4), 8), seen[4:], strict=True):
        assert all(again[name].equal(before[name]) for name in before)
    assert sum(len(batch["tokens"]) for batch in seen[:5]) == len(rows)  # an epoch
    assert {int(i) for batch in seen for i in batch["tokens"].flatten()} == {0, 1, 2}


def test_batches_without_gradients_hold_no_more_rows_than_a_ranks_part_of_a_step(store: SnapshotStore) -> None:
    from tasks.stages.next_token.worker import TEST_ROWS, in_order

    rows = Blocks.of(read(packed(store, "bin"), 0, 1), 0, 1, SIZE, TOTAL, 61).rows(np.arange(9), 1)
    for most, size in ((5, 5), (1000, TEST_ROWS)):
        batches = [batch["tokens"].flatten() for batch in in_order(rows, None, most)]
        assert np.concatenate(batches).tolist() == rows.ids.flatten().tolist()
        assert max(map(len, batches)) == size


def test_rare_ids_are_one() -> None:
    from tasks.stages.next_token.worker import folds_of

    assert folds_of(np.array([4, 0]), 6).tolist() == [1, 2, 2, 2, 0, 2]


def test_a_token_counts_in_the_slices_of_its_review(store: SnapshotStore, tmp_path: Path) -> None:
    given = [{"rating": 5.0, "category": "Toys", "text": "short"}, {"rating": 1.0, "text": "x" * 300}]
    given += [{"rating": 5.0, "category": "Books", "text": "short"}]
    given = [{**row, "timestamp": datetime(2015, 1, 1, tzinfo=UTC)} for row in given]
    reviews = put_reviews(store, given[:1], given[1:])
    ids = [[{"review_id": f"R{i}", "input_ids": [1] * n, "n_tokens": n}] for i, n in ((0, 2), (1, 0), (2, 3))]
    tokens = put(store, "tokenize", {"": [pa.Table.from_pylist(rows, TOKENS) for rows in ids]})
    # In the stream: two tokens and the end of the first review, the end of the second, three tokens and an end.
    tests = [tmp_path / "test-0.npz", tmp_path / "test-1.npz"]
    losses = {0: 1.0, 2: 3.0, 3: 5.0, 4: 2.0, 7: 0.0}
    for file, places in zip(tests, ([0, 3, 7], [2, 4]), strict=True):
        nats = np.array([losses[p] for p in places], dtype=np.float32)
        np.savez(file, position=np.array(places), nats=nats, frequency=2 * nats)
    found = {
        (row["slice"], row["value"]): (row["reviews"], row["tokens"], pytest.approx(row["perplexity"]))
        for row in measured(reviews.files(), tokens.files(), tests).to_pylist()
    }
    assert found == {
        ("all", "all"): (3, 5, np.exp(11 / 5)),
        ("stars", "1"): (1, 1, np.exp(5.0)),
        ("stars", "5"): (2, 4, np.exp(6 / 4)),
        ("length", "long"): (1, 1, np.exp(5.0)),
        ("length", "short"): (2, 4, np.exp(6 / 4)),
        ("category", "Toys"): (1, 2, np.exp(2.0)),
        ("category", "Books"): (1, 2, np.exp(1.0)),
        ("category", "others"): (1, 1, np.exp(5.0)),
    }


def test_a_model_that_sees_what_it_is_to_predict_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertLMHeadModel, GPT2Config, GPT2LMHeadModel

    from tasks.stages.text_model import pretrained

    GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2)).save_pretrained(tmp_path / "gpt2")
    module, _ = pretrained.load_causal(str(tmp_path / "gpt2"))
    assert len(list(module.named_parameters())) > 0
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertLMHeadModel(BertConfig(vocab_size=50, **shape)).save_pretrained(tmp_path / "bert")
    with pytest.raises(SettingsError, match=r"next_token.from=[\s\S]*sees the tokens"):
        pretrained.load_causal(str(tmp_path / "bert"))


def test_a_folder_without_some_of_the_weights_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import GPT2Config, GPT2Model

    from tasks.stages.text_model import pretrained

    GPT2Model(GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "c_attn.weight" in name)
    del weights[name]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(SettingsError, match="1 of the model's weights are not in the folder"):
        pretrained.load(str(tmp_path), 2, seed=0)


def test_the_files_of_the_parquet_format_are_read_whole(store: SnapshotStore) -> None:
    records = ranges_of(packed(store, "parquet"))
    assert [(r["first"], r["stop"]) for r in records] == [(0, 4), (4, 9)]
    assert all(pq.read_metadata(r["file"]).num_rows == r["stop"] - r["first"] for r in records)

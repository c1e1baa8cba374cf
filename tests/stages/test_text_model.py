"""The text model without Ray: its rows, its batches, scores that do not depend on company, and models it refuses."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import RowsLost, SettingsError, UserError
from tasks.domain.schemas import REVIEWS, TOKENS
from tasks.stages.features.features import deep_features
from tasks.stages.text_model import stage
from tasks.stages.text_model.rows import OUTPUTS, Rows, both_ends, files_of, pad, read_rows, shortened
from tasks.stages.text_model.vocabulary import folded_together

pytest.importorskip("torch", reason="the extra deep is not installed")

START = dt.datetime(2015, 1, 1, tzinfo=dt.UTC)
FILLER = 30


def write_files(folder: Path, *sizes: int) -> list[tuple[Path, Path]]:
    """Reviews a day apart, of 1 to 5 stars and with 0 to 9 votes, and their tokens: 0 to 11 of them."""
    files, number = [], 0
    for i, size in enumerate(sizes):
        rows = range(number, number + size)
        number += size
        reviews = [
            {"review_id": f"R{r}", "user_id": "u", "item_id": "i", "rating": 1.0 + r % 5, "title": "", "text": "",
             "timestamp": START + dt.timedelta(days=r), "total_votes": r % 10, "helpful_votes": r % 10 // 2}
            for r in rows
        ]  # fmt: skip
        tokens = [{"review_id": f"R{r}", "input_ids": [*range(r % 12)], "n_tokens": r % 12} for r in rows]
        pair = folder / f"reviews-{i}.parquet", folder / f"tokens-{i}.parquet"
        pq.write_table(pa.Table.from_pylist(reviews, REVIEWS), pair[0])
        pq.write_table(pa.Table.from_pylist(tokens, TOKENS), pair[1])
        files.append(pair)
    return files


def read(files: list[tuple[Path, Path]], rank: int, world_size: int) -> list[pa.Table]:
    batches = [{name: np.array([value]) for name, value in record.items()} for record in files_of(files)]
    given = {"rank": rank, "world_size": world_size, "max_tokens": 8, "min_votes": 5}
    return [read_rows(batch, **given) for batch in batches]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_read_every_row_once_in_any_order_of_the_tables(tmp_path: Path, world_size: int) -> None:
    files = write_files(tmp_path, 20, 0, 1, 30)
    parts = [Rows.of(reversed(read(files, rank, world_size)), rank, world_size, 51) for rank in range(world_size)]
    assert sorted(np.concatenate([part.row for part in parts]).tolist()) == list(range(51))
    part = parts[-1]
    assert part.lengths.tolist() == [min(r % 12, 8) for r in part.row]
    assert part.ms.tolist() == [int((START + dt.timedelta(days=int(r))).timestamp() * 1000) for r in part.row]
    stars = part.answers[:, OUTPUTS.index("stars")] * 2 + 3
    assert stars.tolist() == [1.0 + r % 5 for r in part.row]
    assert part.answers[:, 2].tolist() == [float(r % 5 >= 3) for r in part.row]  # more than 3 stars
    few = np.isnan(part.answers[:, OUTPUTS.index("helpful")])
    assert few.tolist() == [r % 10 < 5 for r in part.row]


@pytest.mark.parametrize("most", [1, 2, 5, 6, 20])
def test_of_long_reviews_the_first_and_last_tokens_are_read(most: int) -> None:
    reviews = [[*range(n)] for n in (0, 1, 5, 6, 7, 12, 0)]
    lists = pa.array([[99], *reviews], pa.list_(pa.int32())).slice(1)
    found = shortened(lists, most).to_pylist()
    assert found == [both_ends(np.array(review, dtype=int), most).tolist() for review in reviews]
    assert both_ends(np.arange(12), 5).tolist() == [0, 1, 2, 10, 11]


def test_rows_that_are_lost_or_repeated_are_noticed(tmp_path: Path) -> None:
    tables = read(write_files(tmp_path, 10, 10), 0, 2)
    for wrong in (tables[:1], [*tables, tables[0]], [tables[0], tables[1].slice(1)], read([], 0, 2)):
        with pytest.raises(RowsLost, match="rank 0 of 2 got"):
            Rows.of(wrong, 0, 2, 20)


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return Rows.of(read(write_files(tmp_path, 101), 0, 1), 0, 1, 101)


def learning(rows: Rows, rank: int = 0, **other: Any) -> Any:
    from tasks.stages.text_model.batches import Learning

    given = {"places": np.arange(5, 101), "steps": 7, "seeds": (3, 1), "filler": FILLER, "left_out": 0.2, **other}
    return Learning(rows, rank=rank, **given)


def test_an_epoch_has_every_place_once_and_another_epoch_another_order(rows: Rows) -> None:
    batches = learning(rows)
    first, second = (batches.epoch(number) for number in (0, 1))
    for epoch in (first, second):
        assert sorted(np.concatenate(epoch).tolist()) == list(range(5, 101))
        assert len(epoch) == 7
    assert any(a.tolist() != b.tolist() for a, b in zip(first, second, strict=True))
    assert sum(np.ptp(rows.lengths[places]) for places in first) < 20  # of alike lengths


def test_a_resumed_training_sees_what_the_first_one_would_have_seen(rows: Rows) -> None:
    batches = learning(rows)
    seen = list(islice(batches(0), 16))
    for first in (5, 7, 12):
        for again, before in zip(islice(batches(first), 4), seen[first:], strict=False):
            assert all(again[name].equal(before[name]) for name in before)


def test_a_step_has_alike_lengths_on_all_ranks(rows: Rows) -> None:
    of_ranks = [learning(rows, rank, places=np.arange(rank, 101, 2)).epoch(0) for rank in (0, 1)]
    means = [[rows.lengths[places].mean() for places in epoch] for epoch in of_ranks]
    assert np.abs(np.subtract(*means)).max() < 1.5


def test_hidden_tokens_become_the_filler_and_padding_has_no_weight(rows: Rows) -> None:
    from tasks.stages.text_model.batches import batch_of

    shown = batch_of(rows, np.arange(101), FILLER)
    hidden = next(iter(learning(rows, places=np.arange(101), steps=1)(0)))
    share = float((hidden["tokens"] == FILLER)[hidden["mask"]].double().mean())
    assert 0.1 < share < 0.4
    assert shown["mask"].sum(1).tolist() == np.maximum(rows.lengths, 1).tolist()
    assert shown["weight"][:, :5].min() == 1
    assert shown["weight"][:, 5].tolist() == [float(r % 10 >= 5) for r in range(101)]
    nothing = batch_of(rows, np.arange(0), FILLER)
    assert len(nothing["tokens"]) == 1
    assert not nothing["weight"].any()


@pytest.fixture
def scorer(tmp_path: Path) -> Any:
    """A model with weights that are not all but nothing, through its files."""
    import torch

    from tasks.stages.text_model import model

    shape = {"vocabulary": FILLER + 1, "positions": 20, "width": 16, "heads": 2, "layers": 2, "hidden": 32}
    about = model.About(kind="encoder", config={**shape, "outputs": len(OUTPUTS)}, max_tokens=20, filler=FILLER)
    made = model.skeleton(about, seed=1)
    draws = torch.Generator().manual_seed(2)
    weights = {name: torch.randn(w.shape, generator=draws) for name, w in made.state_dict().items()}
    folds = np.arange(100, dtype=np.int32) % FILLER
    model.write(tmp_path, about, weights, folds)
    loaded = model.Scorer.load(tmp_path)
    assert all(loaded.module.state_dict()[name].equal(w) for name, w in weights.items())
    return loaded


def test_a_score_depends_on_the_review_alone_to_the_last_bit(scorer: Any) -> None:
    rng = np.random.default_rng(4)
    reviews = [rng.integers(0, 100, rng.integers(0, 30)).astype(np.int32) for _ in range(70)]
    together = scorer.score(reviews)
    assert np.isfinite(together).all()
    assert together[:, 0].std() > 0.01
    alone = np.concatenate([scorer.score([review]) for review in reviews])
    backwards = scorer.score(reviews[::-1])[::-1]
    assert together.tobytes() == alone.tobytes() == backwards.tobytes()
    cut = scorer.score([both_ends(review, 20) for review in reviews])
    assert together.tobytes() == cut.tobytes()


def test_no_reviews_have_no_scores(scorer: Any) -> None:
    assert scorer.score([]).shape == (0, len(OUTPUTS))


def test_tokens_of_one_word_share_an_id() -> None:
    folds, size = folded_together(["Good", "\u0120good", "good", "!", "\u00e9", "bad"])
    assert folds.tolist() == [0, 0, 0, 1, 2, 3]
    assert size == 4


def test_padding_fills_to_the_longest_and_to_the_length() -> None:
    tokens, mask = pad([np.array([1, 2]), np.array([], dtype=int)], 9, 4)
    assert tokens.tolist() == [[1, 2, 9, 9], [9, 9, 9, 9]]
    assert mask.tolist() == [[True, True, False, False], [True, False, False, False]]


def test_the_score_is_in_the_unit_of_the_target() -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.6, 4.1, 0.3], [np.nan] * 6], dtype=np.float32)
    found = {
        target: deep_features(scores, target)["deep_score"].tolist() for target in ("rating", "positive", "helpful")
    }
    assert found["rating"] == pytest.approx([4.0, np.nan], nan_ok=True)
    assert found["positive"] == pytest.approx([0.7, np.nan], nan_ok=True)
    assert found["helpful"] == pytest.approx([0.3, np.nan], nan_ok=True)


def test_without_torch_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "find_spec", lambda name: None if name == "torch" else name)
    with pytest.raises(UserError, match=r"needs torch.*\n.*pip install .*\[deep\]"):
        stage.check_installed()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random GPT-2, as `save_pretrained` leaves it."""
    from transformers import GPT2Config, GPT2Model

    from tasks.engines import tokenizer

    folder = tmp_path_factory.mktemp("gpt2")
    GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=2, n_positions=32)).save_pretrained(folder)
    tokenizer.load("gpt2").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made() -> str:
    """GPT-2's tokenizer."""
    from tasks.engines import tokenizer

    return tokenizer.recipe("gpt2").made


class TestReadyModels:
    def test_a_model_with_our_tokenizer_is_taken_without_its_dropout(self, folder: Path, made: str) -> None:
        import torch

        from tasks.stages.text_model import pretrained

        pretrained.check(str(folder), made, 50257, 32)
        module, config = pretrained.load(str(folder), len(OUTPUTS), seed=3)
        again, _ = pretrained.load(str(folder), len(OUTPUTS), seed=3)
        tokens, mask = (torch.from_numpy(a) for a in pad([np.array([1, 2, 3]), np.array([5])], 0))
        outputs = module.train()(tokens, mask)
        assert outputs.shape == (2, len(OUTPUTS))
        assert outputs.equal(again.train()(tokens, mask))
        outputs.sum().backward()
        assert all(weight.grad is not None for weight in module.parameters())
        skeleton = pretrained.skeleton(config, len(OUTPUTS))
        skeleton.load_state_dict(module.state_dict())
        assert skeleton(tokens, mask).equal(outputs)

    def test_an_encoder_with_a_pooler_is_taken_without_it(self, tmp_path: Path) -> None:
        import torch
        from transformers import BertConfig, BertModel

        from tasks.stages.text_model import pretrained

        shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        BertModel(BertConfig(vocab_size=50, **shape)).save_pretrained(tmp_path)
        module, _ = pretrained.load(str(tmp_path), 2, seed=0)
        module(torch.tensor([[1, 2]]), torch.tensor([[True, True]])).sum().backward()
        assert all(weight.grad is not None for weight in module.parameters())

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"vocab_size": 100}, "the model has 100 token ids, the tokenizer 50,257"),
            ({"n_positions": 16}, "16 positions, text_model.max_tokens is 32"),
            ({"is_encoder_decoder": True}, "an encoder with a decoder"),
        ],
    )
    def test_a_model_of_another_shape_is_refused(
        self, folder: Path, made: str, tmp_path: Path, change: dict[str, Any], says: str
    ) -> None:
        from tasks.stages.text_model import pretrained

        for file in folder.iterdir():
            (tmp_path / file.name).symlink_to(file)
        config = json.loads((folder / "config.json").read_text())
        (tmp_path / "config.json").unlink()
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(SettingsError, match=says):
            pretrained.check(str(tmp_path), made, 50257, 32)

    def test_a_model_with_another_tokenizer_is_refused(self, folder: Path, made: str) -> None:
        from tasks.stages.text_model import pretrained

        other = json.loads(made)
        other["model"]["merges"] = other["model"]["merges"][:-1]
        with pytest.raises(SettingsError, match=r"tokenizer is another one[\s\S]*tokenize.tokenizer="):
            pretrained.check(str(folder), json.dumps(other), 50257, 32)

    def test_pickled_weights_no_folder_and_a_broken_config_are_refused(self, made: str, tmp_path: Path) -> None:
        from tasks.stages.text_model import pretrained

        def refused() -> str:
            with pytest.raises(SettingsError) as caught:
                pretrained.check(str(tmp_path / "model"), made, 50257, 32)
            return str(caught.value)

        assert "no readable config.json" in refused()
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "config.json").write_text("{")
        assert "no readable config.json" in refused()
        (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": 50257}))
        (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"pickle")
        assert "pickled ones are never loaded" in refused()
        (tmp_path / "model" / "model.safetensors").write_bytes(b"")
        assert "the model's tokenizer" in refused()


def test_another_seed_holds_out_other_reviews() -> None:
    from tasks.stages.text_model.batches import drawn

    number = np.arange(10_000)
    one, other = (drawn(number, seed) < 0.05 for seed in (7, 8))
    assert 400 < one.sum() < 600
    assert 400 < other.sum() < 600
    assert (one & other).sum() < 100


def test_rows_take_the_ids_of_the_models_vocabulary(rows: Rows) -> None:
    folds = np.arange(12) // 2
    assert rows.with_ids(folds).tokens.tolist() == (rows.tokens // 2).tolist()
    assert replace(rows, tokens=rows.tokens).lengths.tolist() == rows.lengths.tolist()

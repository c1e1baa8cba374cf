"""A rank of the text model, from files to scores, without Ray: what comes later changes no score."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import SettingsError
from tasks.domain.schemas import REVIEWS, TOKENS
from tasks.stages.text_model.rows import OUTPUTS, Array, Rows, files_of, read_rows
from tasks.stages.text_model.stage import gathered, placed
from tests.support.stage_runs import settings

torch = pytest.importorskip("torch", reason="the extra deep is not installed")

START = dt.datetime(2015, 1, 1, tzinfo=dt.UTC)
COUNT, CUTS = 240, (60, 120, 180)  # reviews, one a day, in files in another order; the borders' days
VOCABULARY, LENGTH = 30, 12
CONFIG = settings(
    "text_model.enabled=true",
    "text_model.validation=0.2",
    "text_model.batch=16",
    "text_model.learning_rate=0.01",
    "text_model.shape.width=8",
    "text_model.shape.heads=2",
    "text_model.shape.layers=1",
    "text_model.shape.hidden=8",
).text_model


@dataclass(frozen=True)
class Review:
    day: int
    stars: int
    helpful: int
    ids: tuple[int, ...]


def some_reviews() -> list[Review]:
    """Reviews of 0 to 15 tokens that tell the stars."""
    rng = random.Random(1)
    stars = [rng.randint(1, 5) for _ in range(COUNT)]
    ids = [tuple(rng.randrange(5 * s, 5 * s + 4) for _ in range(rng.randrange(16))) for s in stars]
    return [
        Review(i * 77 % COUNT, s, rng.randint(0, 6), row) for i, (s, row) in enumerate(zip(stars, ids, strict=True))
    ]


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process group of this process alone."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(CONFIG.threads)  # as a worker does: sums of two threads end in other bits
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def rows_of(reviews: list[Review], folder: Path) -> Rows:
    """Write the reviews and their tokens to files, and read them as a rank does."""
    folder.mkdir(exist_ok=True)
    files = []
    for part in (range(100), range(100, COUNT)):
        known = [
            {"review_id": f"R{i}", "user_id": "u", "item_id": "i", "rating": float(r.stars), "title": "", "text": "",
             "timestamp": START + dt.timedelta(days=r.day), "total_votes": 6, "helpful_votes": r.helpful}
            for i in part for r in [reviews[i]]
        ]  # fmt: skip
        ids = [{"review_id": f"R{i}", "input_ids": reviews[i].ids, "n_tokens": len(reviews[i].ids)} for i in part]
        pair = folder / f"reviews-{part.start}.parquet", folder / f"tokens-{part.start}.parquet"
        pq.write_table(pa.Table.from_pylist(known, REVIEWS), pair[0])
        pq.write_table(pa.Table.from_pylist(ids, TOKENS), pair[1])
        files.append(pair)
    batches = [{name: np.array([value]) for name, value in record.items()} for record in files_of(files)]
    given = {"rank": 0, "world_size": 1, "max_tokens": LENGTH, "min_votes": 5}
    return Rows.of([read_rows(batch, **given) for batch in batches], 0, 1, COUNT)


def scored(reviews: list[Review], folder: Path) -> Array:
    """Train and score at each border, and return all scores (COUNT, OUTPUTS)."""
    from tasks.deep.plan import plan
    from tasks.stages.text_model import model, worker

    shape = {"vocabulary": VOCABULARY + 1, "positions": LENGTH, "outputs": len(OUTPUTS), **CONFIG.shape.model_dump()}
    about = model.About(kind="encoder", config=shape, max_tokens=LENGTH, filler=VOCABULARY)
    cuts = tuple(int((START + dt.timedelta(days=day)).timestamp() * 1000) for day in CUTS)
    rows = rows_of(reviews, folder)
    blocks = worker.Rank(worker.TextJob(CONFIG, about, cuts, COUNT, None, folder, "cpu", True), rows, plan()).run()
    assert all(block.trained for block in blocks)
    return gathered(folder, COUNT, sum(block.scored for block in blocks))


@pytest.mark.usefixtures("group")
def test_no_score_depends_on_answers_from_its_blocks_border_on_nor_on_other_later_texts(tmp_path: Path) -> None:
    reviews = some_reviews()
    inside = (CUTS[1] + CUTS[2]) // 2  # of the second block

    def changed(review: Review) -> Review:
        if review.day < CUTS[1]:
            return review
        ids = tuple((i + 7) % VOCABULARY for i in review.ids) if review.day >= inside else review.ids
        return Review(review.day, 6 - review.stars, 6 - review.helpful, ids)

    before = scored(reviews, tmp_path / "before")
    after = scored([changed(review) for review in reviews], tmp_path / "after")
    day = np.array([review.day for review in reviews])
    assert np.isnan(before[day < CUTS[0]]).all()
    assert np.isfinite(before[day >= CUTS[0]]).all()
    assert after[day < inside].tobytes() == before[day < inside].tobytes()
    # What must show does: the changed texts' own scores, and those of a model that has learned from the changes.
    longer = np.array([len(review.ids) > 3 for review in reviews])
    assert (after != before)[longer & (day >= inside)].any(axis=1).all()
    stars = OUTPUTS.index("stars")
    assert (after != before)[day >= CUTS[2], stars].all()


@pytest.mark.usefixtures("group")
def test_scoring_goes_on_with_the_reviews_that_are_left_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.stages.text_model import worker

    reviews = some_reviews()
    whole = scored(reviews, tmp_path / "run")
    once = {file.name for file in tmp_path.glob("run/scores-*")}
    assert once == {"scores-0-0-0.npz", "scores-1-0-0.npz", "scores-2-0-0.npz"}
    for name in once:
        (tmp_path / "run" / name).unlink()
    monkeypatch.setattr(worker, "MEET_S", 0.0)
    monkeypatch.setattr(worker, "SCORED_AT_ONCE", 25)
    assert scored(reviews, tmp_path / "run").tobytes() == whole.tobytes()
    pieces = sorted(tmp_path.glob("run/scores-*"))
    assert [file.name for file in pieces[:3]] == ["scores-0-0-0.npz", "scores-0-0-25.npz", "scores-0-0-50.npz"]
    for lost in (pieces[2], *pieces[-2:]):  # as where it was killed after the first ones of a block
        lost.unlink()
    assert scored(reviews, tmp_path / "run").tobytes() == whole.tobytes()


@pytest.mark.usefixtures("group")
def test_batches_to_validate_by_are_no_larger_than_a_ranks_part_of_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.stages.text_model import worker

    sizes: list[int] = []

    class Seen(worker.Validation):
        def __call__(self) -> Iterator[Any]:
            for batch in super().__call__():
                sizes.append(len(batch["tokens"]))
                yield batch

    monkeypatch.setattr(worker, "Validation", Seen)
    scored(some_reviews(), tmp_path / "run")
    assert CONFIG.batch / 2 < max(sizes) <= CONFIG.batch


def test_a_training_goes_on_on_the_device_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def placed_with(gpus: int, folder: str, device: str = "auto") -> Any:
        monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": float(gpus)} if gpus else {})
        return placed(CONFIG.model_copy(update={"shards": 2, "device": device}), "text_model", tmp_path / folder)

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert placed_with(0, "on-cpus") == placed_with(1, "on-cpus") == ("cpu", 2)
    assert placed_with(1, "on-a-gpu") == placed_with(2, "on-a-gpu") == ("cuda", 1)
    assert placed_with(3, "on-gpus") == ("cuda", 2)
    with pytest.raises(SettingsError, match=r"began with 2 ranks of a GPU each, and Ray has 1 now\n.*device=cpu"):
        placed_with(1, "on-gpus")

    monkeypatch.setattr(torch.version, "cuda", None)
    assert placed_with(1, "torch-for-cpus") == ("cpu", 2)
    with pytest.raises(SettingsError, match=r"text_model.device is cuda, and this torch is built for CPUs"):
        placed_with(1, "none", "cuda")

"""Whatever is switched on, the packaged model scores the test slice as it was evaluated, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.pipeline import Finished

pytestmark = [pytest.mark.slow, pytest.mark.nightly]
VARIANTS = {
    "helpful": ("features.target=helpful", "features.min_votes=1", "split.min_rows=5"),
    "stars": ("features.target=stars",),
    "positive": ("features.target=positive",),
    "embeddings": ("embeddings.enabled=true",),
    "word2vec": ("embeddings.enabled=true", "embeddings.method=cbow"),
    "no-language-model": ("language_model.enabled=false",),
    "other-words": ("count_words.splitting=gpt2", "count_words.ngrams=2", "tokenize.max_tokens=50"),
    "samples": ("language_model.max_reviews=200", "features.text_score.max_reviews=300"),
    "by-user": ("split.by=user",),
    "no-text": ("features.groups.text=false",),
    "deep": ("text_model.enabled=true", "text_model.shape.width=16", "text_model.borders=[0.4, 0.8]"),
}


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_proof_holds(
    finished: Finished, server: str, ray_session: None, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    place = finished.place.copy(tmp_path, without=())  # other tests go on from the finished run's own
    words = [word for setting in settings for word in ("--set", setting)]
    done = place.call("run", "--until", "prove", *words, PREFECT_API_URL=server)
    assert done.returncode == 0, done.stderr[-3000:]
    row = next(row for row in place.summary["stages"] if row["stage"] == "prove")
    proof = next(s for s in place.store if s.key == row["key"] and s.stage == "prove").facts
    assert proof["rows"] > 0
    assert (proof["missing"], proof["largest_difference"]) == (0, 0.0)
    assert proof["digests"]["evaluated"] == proof["digests"]["packaged"]

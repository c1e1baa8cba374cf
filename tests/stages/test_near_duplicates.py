"""Near-duplicates: what is found is checked against every pair of texts compared by the definition, in plain Python."""

from __future__ import annotations

import datetime as dt
import random
import re
import unicodedata
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.algorithms import minhash
from tasks.parallel.exchange import exchange_in_process, shuffle_in_process
from tasks.stages import near_duplicates as stage
from tasks.stages.near_duplicates import NearDuplicatesConfig

START = dt.datetime(2015, 1, 1, tzinfo=dt.UTC)
WORDS = [f"{a}{b}" for a in ("lam", "tor", "ber", "gi", "su") for b in ("p", "na", "lle", "ro", "m", "dix", "que")]
CHARACTERS = "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子"
IN_PROCESS = (exchange_in_process, shuffle_in_process, lambda function, *arguments: function(*arguments))


def config(**given: float) -> NearDuplicatesConfig:
    return NearDuplicatesConfig(**{"enabled": True, "min_words": 12, "similarity": 0.8, "buckets": 3, **given})


def reviews(texts: Sequence[str]) -> list[dict[str, object]]:
    return [{"review_id": f"R{i:05}", "text": t, "timestamp": START} for i, t in enumerate(texts)]


def found_in(folder: Path, parts: Sequence[Sequence[dict[str, object]]], **given: float) -> pa.Table:
    """The stage's output for reviews in these files, without Ray."""
    schema = pa.schema([("review_id", pa.string()), ("text", pa.string()), ("timestamp", pa.timestamp("ms", "UTC"))])
    files = [folder / f"part-{i:05}.parquet" for i in range(len(parts))]
    for file, part in zip(files, parts, strict=True):
        pq.write_table(pa.Table.from_pylist(list(part), schema), file, row_group_size=7)
    return stage.find_groups(files, config(**given), *IN_PROCESS)


def groups(texts: Sequence[str], **given: float) -> list[set[int]]:
    """Groups of texts, by their numbers."""
    with TemporaryDirectory() as folder:
        rows = found_in(Path(folder), [reviews(texts)], **given).to_pylist()
    by_name: dict[str, set[int]] = {}
    for row in rows:
        by_name.setdefault(row["group"], set()).add(int(row["review_id"][1:]))
    assert all(name == f"R{min(group):05}" for name, group in by_name.items())
    return list(by_name.values())


def shingles(text: str) -> set[tuple[str, ...]]:
    """The definition for scripts with spaces."""
    letters = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text.lower())
    words = letters.split()
    return set(zip(words, words[1:], words[2:], strict=False))


def similarity(a: str, b: str) -> float:
    return len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))


def changed(words: list[str], count: int, rng: random.Random) -> list[str]:
    """The same words with `count` of them replaced by new ones."""
    places = rng.sample(range(len(words)), count)
    return [f"new{rng.randrange(10**9)}" if i in places else w for i, w in enumerate(words)]


@st.composite
def families(draw: st.DrawFn) -> list[str]:
    """Texts of 12 to 60 words in families: copies of some originals with 0 to 30% of the words changed, shuffled."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    texts = []
    for _ in range(draw(st.integers(1, 5))):
        words = rng.choices(WORDS, k=draw(st.integers(12, 60)))
        shares = draw(st.lists(st.sampled_from([0, 0, 0.02, 0.05, 0.1, 0.3]), min_size=1, max_size=8))
        texts += [" ".join(changed(words, int(share * len(words)), rng)) for share in shares]
    rng.shuffle(texts)
    return texts


@given(texts=families())
def test_groups_hang_together_by_pairs_of_at_least_the_similarity(texts: list[str]) -> None:
    for group in groups(texts):
        reached, todo = set(), [min(group)]
        while todo:
            here = todo.pop()
            reached.add(here)
            todo += [t for t in group - reached if similarity(texts[here], texts[t]) >= 0.8]
        assert reached == group


@given(texts=families(), same=st.integers(0, 100))
def test_every_text_said_twice_is_found(texts: list[str], same: int) -> None:
    again = texts[same % len(texts)]
    spelled = re.sub(" ", " -- ", again.upper()) + "!"
    found = groups([*texts, again, spelled])
    assert any({len(texts), len(texts) + 1, same % len(texts)} <= group for group in found)
    everyone = set().union(*found)
    assert all(i in everyone for i, t in enumerate(texts) if texts.count(t) > 1)


@given(texts=families(), seed=st.integers(0, 2**32), parts=st.integers(1, 5), buckets=st.integers(1, 5))
def test_neither_files_nor_order_nor_buckets_change_the_result(
    texts: list[str], seed: int, parts: int, buckets: int
) -> None:
    rng = random.Random(seed)
    rows = reviews(texts)
    mixed = rng.sample(rows, len(rows))
    cuts = [0, *sorted(rng.randrange(len(rows) + 1) for _ in range(parts - 1)), len(rows)]
    with TemporaryDirectory() as folder:
        expected = found_in(Path(folder), [rows])
        assert found_in(Path(folder), [mixed[a:b] for a, b in pairwise(cuts)], buckets=buckets).equals(expected)
    assert expected.to_pylist() == sorted(expected.to_pylist(), key=lambda r: (r["group"], r["review_id"]))


@pytest.mark.parametrize(("share", "least"), [(0.8, 0.96), (0.9, 0.99)])
def test_recall_of_pairs_is_that_of_the_formula(share: float, least: float) -> None:
    """800 pairs of exactly this similarity: at 0.8 the formula gives 0.991, with a standard error of 0.0033."""
    rng = random.Random(7)
    texts = []
    for i in range(800):
        # A changed word at the end of n shingles changes one: (n - c) / (n + c) for c changed ones.
        n, c = (36, 4) if share == 0.8 else (38, 2)
        words = [f"w{i}x{rng.randrange(10**9)}" for _ in range(n + 2)]
        texts += [" ".join(words), " ".join([*words[:-c], *(f"other{i}x{k}" for k in range(c))])]
    assert similarity(texts[0], texts[1]) == share
    assert minhash.recall(share, *minhash.banding(0.8)) >= 0.991
    found = groups(texts)
    assert all(len(g) == 2 and max(g) - min(g) == 1 for g in found)
    assert len(found) >= least * 800


def test_texts_below_the_similarity_are_never_paired_however_many_they_are() -> None:
    rng = random.Random(1)
    frame = rng.choices(WORDS, k=40)
    texts = [" ".join(changed(frame, 5, rng)) for _ in range(60)]
    apart = [(a, b) for a, b in combinations(range(60), 2) if similarity(texts[a], texts[b]) >= 0.8]
    assert apart == []  # so similar that most share a key, yet none similar enough
    assert groups(texts) == []


def test_what_is_alike_only_through_others_is_one_group() -> None:
    words = [f"w{i}" for i in range(60)]
    chain = [words]
    for i in range(4):
        chain.append([f"step{i}" if k == 10 * (i + 1) else w for k, w in enumerate(chain[-1])])
    texts = [" ".join(c) for c in chain]
    assert similarity(texts[0], texts[1]) >= 0.8 > similarity(texts[0], texts[4])
    assert groups(texts) == [{0, 1, 2, 3, 4}]


def test_only_keys_of_different_texts_are_verified_and_rows_alone_with_theirs_go_nowhere() -> None:
    seen = pa.table({"key": [5, 6, 7, 5, 8], "digest": [50, 60, 51, 50, 60], "row": [0, 0, 1, 2, 3]})
    here, there = stage.find_shared([seen, pa.table({"key": [6], "digest": [61], "row": [0]})])
    assert sorted(here.to_pylist(), key=str) == [{"row": 0, "key": 6}, {"row": 0, "key": None}, {"row": 2, "key": None}]
    assert there.to_pylist() == [{"row": 0, "key": 6}]


@pytest.mark.parametrize(
    ("sets", "linked"),
    [
        # The text with the smallest digest shares the key by chance: the other two are still compared.
        ([range(100, 110), range(10), range(9)], {(2, 3)}),
        # 1 and 2 are alike, 2 and 3 are, 1 and 3 are not: 3 leads next and meets 2 although that is linked already.
        ([range(10), range(1, 11), range(2, 12)], {(1, 2), (3, 2)}),
        ([range(10), range(20, 30), range(40, 50)], set()),
    ],
    ids=["a stranger leads", "alike through another", "strangers"],
)
def test_texts_of_one_key_are_linked_whoever_leads(sets: list[range], linked: set[tuple[int, int]]) -> None:
    told = {"digest": [1, 2, 3], "keys": [[7]] * 3, "shingles": [list(s) for s in sets]}
    numbers = pa.list_(pa.uint64())
    schema = pa.schema([("digest", pa.uint64()), ("keys", numbers), ("shingles", numbers)])
    texts = pa.table(told, schema)
    for slices in ([texts], [texts.slice(1), texts.slice(0, 2)]):
        found = stage.find_links(0, slices, similarity=0.8)
        assert set(zip(found["left"].to_pylist(), found["right"].to_pylist(), strict=True)) == linked


def test_a_text_repeated_thousands_of_times_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    frame = rng.choices(WORDS, k=80)
    variants = [" ".join(changed(frame, 1, rng)) for _ in range(300)]
    texts = [*variants, *[" ".join(frame)] * 3000]
    pairs = 0

    def counted(starts: np.ndarray, values: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        nonlocal pairs
        pairs += len(left)
        return jaccard(starts, values, left, right)

    jaccard = minhash.jaccard
    monkeypatch.setattr(minhash, "jaccard", counted)
    assert groups(texts) == [set(range(3300))]
    assert 300 <= pairs <= 9 * stage.LEADERS * 300  # bands times leaders times different texts, far below 300 * 299 / 2


class TestScripts:
    def text(self, seed: int, length: int = 60) -> str:
        return "".join(random.Random(seed).choices(CHARACTERS, k=length))

    def test_chinese_without_spaces_by_five_characters(self) -> None:
        one, other = self.text(1), self.text(2)
        edited = f"{one[:30]}灯{one[31:]}"  # 5 of 56 shingles: 51 / 61 common
        assert groups([one, other, edited, f"《{one}》"]) == [{0, 2, 3}]
        assert groups([one, other, edited, f"《{one}》"], similarity=0.84) == [{0, 3}]
        assert groups([one, f"{one[:20]}灯{one[21:40]}灯{one[41:]}"]) == []

    @pytest.mark.parametrize(("length", "found"), [(13, []), (14, [{0, 1}])])
    def test_short_ones_are_left_out(self, length: int, found: list[set[int]]) -> None:
        assert groups([self.text(5, length)] * 2) == found
        assert groups([" ".join(WORDS[: length - 2])] * 2) == found

    @pytest.mark.parametrize(
        "text",
        [
            "สินค้าดีมากส่งเร็วแพ็คของมาอย่างดีใช้งานง่ายราคาไม่แพงแนะนำเลย",
            "とても明るいライトで、電池も長持ちします。友達にもすすめたいです。",
            "Отличная лампа, светит ярко, батарея держит долго, советую всем своим друзьям и коллегам по работе",
            "यह बहुत अच्छा लैंप है और इसकी रोशनी भी बहुत तेज है मैं सबको इसे खरीदने की सलाह देता हूँ",
            "정말 좋은 램프 입니다 아주 밝고 배터리 도 오래 가고 가격 도 싸서 친구 에게 추천 합니다",
        ],
    )
    def test_any_script_is_read(self, text: str) -> None:
        assert groups(["x " * 20, text, f"  {text.upper()} 👍👍"]) == [{1, 2}]

    @pytest.mark.parametrize("text", ["", " ", "👍" * 50, "!?… —" * 20, "灯", "a\u0301", "one two"])
    def test_texts_that_say_nothing_are_never_near_duplicates(self, text: str) -> None:
        assert groups([text] * 5) == []
        assert groups([text] * 5, min_words=2) == []  # a shingle takes three words
        said = " ".join(WORDS)
        assert groups([text, said, text, text, said]) == [{1, 4}]


@given(
    texts=st.lists(st.text(alphabet="aB9 _-.éЖ", max_size=30), min_size=1, max_size=8),
    chunk=st.sampled_from([1, 7, 1 << 17]),
)
@example(texts=["a b c", "", "a b c", " ", "b c d a"], chunk=1)
def test_texts_have_the_shingles_of_their_words_and_no_others(texts: list[str], chunk: int) -> None:
    def shingled() -> dict[int, list[int]]:
        found = {}
        for part in minhash.shingle(pa.chunked_array([texts], pa.string()), 3):
            found |= {
                int(t): s.tolist() for t, s in zip(part.text, np.split(part.shingles, part.starts[1:-1]), strict=False)
            }
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minhash, "CHUNK_CHARS", chunk)
        found = shingled()
    words = [re.findall(r"[^\W_]+", t.lower()) for t in texts]
    expected = {i: list(zip(w, w[1:], w[2:], strict=False)) for i, w in enumerate(words) if len(w) > 2}
    assert {i: len(s) for i, s in found.items()} == {i: len(s) for i, s in expected.items()}
    named = [(h, s) for i in expected for h, s in zip(found[i], expected[i], strict=True)]
    assert len(set(named)) == len({h for h, _ in named}) == len({s for _, s in named})


@pytest.mark.parametrize(
    ("similarity", "bands", "rows"), [(1, 1, 36), (0.9, 9, 4), (0.8, 9, 4), (0.5, 18, 2), (0, 36, 1)]
)
def test_bands_follow_the_similarity(similarity: float, bands: int, rows: int) -> None:
    assert minhash.banding(similarity) == (bands, rows)
    assert minhash.recall(similarity, bands, rows) >= 0.99 or similarity == 0

"""The peers of the text benches agree on any text, and the checks that compare the sides can fail."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import text_input
from benchmarks.cases import tokenize as tokenize_case
from benchmarks.cases import wordcount
from benchmarks.peers import text as text_peers
from benchmarks.peers.text import Peer, without
from benchmarks.text_input import Job, Output, TextInput, committed, disputed, load, write_text
from tasks.core.errors import InputError
from tasks.core.snapshot_files import FileSink, part_name
from tasks.domain.schemas import REVIEWS, TOKENS, WORD_COUNTS

Row = Mapping[str, Any]


def sides(peers: Mapping[str, Peer]) -> list[Any]:
    """The peers as parameters, those without their library to be skipped."""

    def marks(name: str) -> list[pytest.MarkDecorator]:
        reason = (without("duckdb", [name]) | without("tiktoken", [name])).get(name)
        return [pytest.mark.skip(reason=reason)] if reason else []

    return [pytest.param(name, peers[name], id=name, marks=marks(name)) for name in peers]


def installed(peers: Mapping[str, Peer]) -> dict[str, Peer]:
    return {param.values[0]: param.values[1] for param in sides(peers) if not param.marks}


def reviews(rows: Sequence[Row]) -> pl.DataFrame:
    plain = {"title": "", "text": "", "rating": 3.0, "user_id": "u", "item_id": "i", "timestamp": day(1)}
    numbered = [{"review_id": f"R{i}", **plain, **row} for i, row in enumerate(rows)]
    return pl.DataFrame(pl.from_arrow(pa.Table.from_pylist(numbered, schema=REVIEWS)))


def day(of_month: int) -> datetime:
    return datetime(2012, 3, of_month, tzinfo=UTC)


def folder_of(path: Path, *parts: Sequence[Row]) -> Path:
    for index, rows in enumerate(parts):
        FileSink(str(path)).write_table(part_name(index), reviews(rows).to_arrow(), REVIEWS)
    return path


def run(peer: Peer, input: Path, out: Path) -> Output:
    out.mkdir()
    peer(input, out, 2)
    return Output(sorted(out.glob("*.parquet")))


@pytest.fixture(autouse=True)
def no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tiktoken from caching the vocabulary in the temporary folder, where later runs would read it."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")


WORDS = [
    [
        {"title": "Don't", "text": "DON’T don't", "rating": 1.0, "timestamp": day(9)},
        {"text": "Café cafe\u0301 ½ x² 日本語 snake_case", "rating": 4.5, "timestamp": day(8)},
    ],
    [
        {"title": "", "text": "", "rating": 2.0},
        {"title": "'quoted'", "text": "rock'n'roll, don't! क्षि Ⅷ", "rating": 4.4, "timestamp": day(2)},
    ],
]
# token, documents, by rating 1 to 5, first seen
COUNTED = [
    ("cafe\u0301", 1, (0, 0, 0, 0, 1), 8),
    ("café", 1, (0, 0, 0, 0, 1), 8),
    ("don't", 2, (2, 0, 0, 1, 0), 2),
    ("don’t", 1, (1, 0, 0, 0, 0), 9),
    ("quoted", 1, (0, 0, 0, 1, 0), 2),
    ("rock'n'roll", 1, (0, 0, 0, 1, 0), 2),
    ("snake_case", 1, (0, 0, 0, 0, 1), 8),
    ("x", 1, (0, 0, 0, 0, 1), 8),
    ("ⅷ", 1, (0, 0, 0, 1, 0), 2),
    ("क्षि", 1, (0, 0, 0, 1, 0), 2),
    ("日本語", 1, (0, 0, 0, 0, 1), 8),
]


def expected_counts() -> pl.DataFrame:
    rows = [
        {"token": token, "n": 1, "count": sum(stars), "documents": documents, "first_seen": day(seen)}
        | {f"rating_{k}": n for k, n in enumerate(stars, 1)}
        for token, documents, stars, seen in COUNTED
    ]
    return pl.DataFrame(pl.from_arrow(pa.Table.from_pylist(rows, schema=WORD_COUNTS))).sort("token")


@pytest.mark.parametrize(("name", "peer"), sides(wordcount.PEERS))
def test_a_peer_counts_words_by_review_and_by_stars_in_order(tmp_path: Path, name: str, peer: Peer) -> None:
    output = run(peer, folder_of(tmp_path / "in", *WORDS), tmp_path / name)
    wordcount.compare(expected_counts(), wordcount.read(output), f"this list and {name}")


@pytest.mark.slow
def test_peers_agree_on_every_character_that_is_not_left_out(tmp_path: Path) -> None:
    named = [chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
    kept = pl.Series(named).filter(~pl.Series(named).str.contains(disputed()))
    assert len(kept) == len(named) - 2
    texts = ["".join(f"a{c}b'{c} " for c in kept[start : start + 1000]) for start in range(0, len(kept), 1000)]
    input = folder_of(tmp_path / "in", [{"text": text} for text in texts])
    found = {
        name: wordcount.read(run(peer, input, tmp_path / name)) for name, peer in installed(wordcount.PEERS).items()
    }
    assert len(found["counter"]) > 100_000
    for name, counts in found.items():
        wordcount.compare(found["counter"], counts, f"counter and {name}")


# Hypothesis draws most characters of any alphabet from its beginning, so these are put in beside.
NO_ODD = st.characters(exclude_categories=["Cs", "Cn"], exclude_characters="İΣ") | st.sampled_from("aÉ'’_ \n½é\u0301")


@given(st.text(NO_ODD))
def test_python_and_polars_find_the_same_words(text: str) -> None:
    polars_words = pl.Series([text]).str.to_lowercase().str.extract_all(wordcount.WORD)[0].to_list()
    assert wordcount.words_of(text.lower()) == polars_words


TEXTS: list[list[Row]] = [
    [{"text": "Hello world"}, {"title": "Hello", "text": " world"}, {"title": "only", "text": ""}, {}],
    [
        {"text": "I'm  here,\tisn't\u00a0it? \n\n 1234½ "},
        {"text": "日本語 😀👍🏽 naïve cafe\u0301 ’s"},
        {"text": "a" * 3000},
    ],
]


@pytest.mark.parametrize(("name", "peer"), sides(text_peers.PEERS))
def test_a_peer_writes_the_ids_of_title_and_text_file_by_file(tmp_path: Path, name: str, peer: Peer) -> None:
    output = run(peer, folder_of(tmp_path / "in", *TEXTS), tmp_path / name)
    assert [file.name for file in output.files] == ["part-00000.parquet", "part-00001.parquet"]
    first, second = (tokenize_case.read(file) for file in output.files)
    assert first["input_ids"].to_list() == [[15496, 995], [15496, 198, 995], [8807, 198], []]
    assert first["n_tokens"].to_list() == [2, 3, 2, 0]
    assert first["review_id"].to_list() == ["R0", "R1", "R2", "R3"]
    assert second["input_ids"].list.len().to_list() == second["n_tokens"].to_list()
    assert pa.schema(first.to_arrow().cast(TOKENS).schema) == TOKENS


def test_peers_agree_on_ids_across_chunks_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_peers, "CHUNK_TEXTS", 2)
    input = folder_of(tmp_path / "in", *TEXTS, TEXTS[0], [])
    outputs = {name: run(peer, input, tmp_path / name) for name, peer in installed(text_peers.PEERS).items()}
    for name, output in outputs.items():
        assert len(output.files) == 4
        for mine, theirs in zip(outputs["huggingface"].files, output.files, strict=True):
            tokenize_case.compare(tokenize_case.read(mine), tokenize_case.read(theirs), f"huggingface and {name}")


def job_of(folder: Path, scratch: Path) -> Job:
    text = load(folder)
    reviews = committed(text, scratch / "reviews")
    return Job(text=text, reviews=reviews, workers=2, scratch=scratch, settings=None)  # type: ignore[arg-type]


def written(path: Path, rows: Sequence[Row], megabytes: int = 1) -> TextInput:
    write_text(lambda: reviews(rows), megabytes, path)
    return load(path)


LONG = [{"text": f"{chr(97 + i)} word " * 15_000} for i in range(3)]  # 105 kB each


def test_rows_are_repeated_under_new_ids_until_the_size_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_input, "FILE_ROWS", 4)
    text = written(tmp_path / "in", LONG)
    frames = [pl.read_parquet(file) for file in text.files]
    whole = pl.concat(frames)
    assert whole["review_id"].n_unique() == len(whole) == text.about.rows == 10
    assert set(whole["text"]) == {row["text"] for row in LONG}
    assert text.about.bytes == (whole["title"] + "\n" + whole["text"]).str.len_bytes().sum()
    assert 1_000_000 <= text.about.bytes < 1_000_000 + len(LONG[0]["text"]) + 1
    assert (text.about.rounds, text.about.files, text.about.pre_tokens) == (
        4,
        3,
        9,
    )  # "\n", " ", " word", "a", " a", ...
    assert str(text) == "10 reviews (the same ones up to 4 times)"
    assert [f.schema for f in frames] == [reviews([]).schema] * 3
    again = written(tmp_path / "again", LONG)
    assert [f.read_bytes() for f in again.files] == [f.read_bytes() for f in text.files]


def test_rows_with_disputed_characters_are_left_out_and_counted(tmp_path: Path) -> None:
    odd = [{"text": "İstanbul"}, {"title": "ΟΔΟΣ"}, {"text": "new \u0378"}, {"text": "the <|endoftext|> token"}]
    text = written(tmp_path / "in", [*odd, {"text": "fine ςσ ı 😀 ½" * 9}, *LONG])
    assert text.about.left_out == 4
    assert "(4 of all were left out" in str(text)
    assert not any(pl.read_parquet(file)["text"].str.contains(disputed()).any() for file in text.files)
    with pytest.raises(InputError, match="no usable review with a text"):
        written(tmp_path / "none", odd)


def test_the_snapshot_has_the_rows_of_the_files(tmp_path: Path) -> None:
    text = written(tmp_path / "in", LONG)
    snapshot = committed(text, tmp_path / "store")
    assert snapshot.read().equals(pa.concat_tables([pl.read_parquet(f).to_arrow().cast(REVIEWS) for f in text.files]))
    assert snapshot.rows() == text.about.rows


@pytest.mark.slow
def test_a_peer_in_its_own_process_takes_its_own_time(tmp_path: Path) -> None:
    text = written(tmp_path / "in", LONG)
    took = text_input.peer("benchmarks.cases.wordcount", "counter")(job_of(text.folder, tmp_path))
    assert wordcount.read(took.output)["token"].to_list() == ["a", "b", "c", "word"]
    assert took.wall_s > 0


def test_check_of_words_names_the_first_that_differs(tmp_path: Path) -> None:
    job = job_of(written(tmp_path / "in", LONG).folder, tmp_path)
    output = run(wordcount.counter, job.text.folder, tmp_path / "counter")
    assert "every column equal to peer" in wordcount.check(job, output, {"peer": output})
    right = wordcount.read(output)

    def checked(frame: pl.DataFrame) -> None:
        frame.write_parquet(tmp_path / "other.parquet")
        wordcount.check(job, output, {"peer": Output([tmp_path / "other.parquet"])})

    for column in ("documents", "rating_3"):
        with pytest.raises(AssertionError, match=f"1 words differ, ours and peer; the first: 'word', {column}: "):
            checked(right.with_columns(pl.col(column) + (pl.col("token") == "word").cast(pl.Int64)))
    with pytest.raises(AssertionError, match="1 words only of ours, ours and peer; the first: 'word'"):
        checked(right.filter(pl.col("token") != "word"))
    with pytest.raises(AssertionError, match="1 words only of peer, ours and peer; the first: 'new'"):
        checked(pl.concat([right, right[-1:].with_columns(token=pl.lit("new"))]))
    for frame in (right.reverse(), pl.concat([right, right[-1:]])):
        with pytest.raises(AssertionError, match="words are repeated or not in order, ours and peer"):
            checked(frame)


def test_peers_of_an_extra_that_is_not_installed_are_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_peers, "find_spec", lambda _: None)
    for case, library in ((tokenize_case.CASE, "tiktoken"), (wordcount.CASE, "duckdb")):
        assert case.skip is not None
        left_out = case.skip(1)
        assert {name for name in case.peers if name.startswith(library)} == left_out.keys() - {"spark"}
        assert '".[bench]"' in left_out[library]


def test_check_of_ids_names_the_first_that_differs(tmp_path: Path) -> None:
    job = job_of(written(tmp_path / "in", LONG).folder, tmp_path)
    output = run(text_peers.huggingface, job.text.folder, tmp_path / "huggingface")
    assert "every id equal to peer" in tokenize_case.check(job, output, {"peer": output})
    right = tokenize_case.read(output.files[0])

    def checked(frame: pl.DataFrame) -> None:
        frame.write_parquet(tmp_path / "other.parquet")
        tokenize_case.check(job, output, {"peer": Output([tmp_path / "other.parquet"])})

    first = pl.int_range(pl.len()) == 1
    changed = pl.when(first).then(pl.col("input_ids").list.reverse()).otherwise("input_ids")
    with pytest.raises(AssertionError, match=r"input_ids of 1 reviews differ in part-00000.parquet, ours and peer"):
        checked(right.with_columns(changed))
    with pytest.raises(AssertionError, match="n_tokens of 1 reviews differ"):
        checked(right.with_columns(pl.col("n_tokens") + first.cast(pl.Int32)))
    with pytest.raises(AssertionError, match="review_id of"):
        checked(right.reverse())
    with pytest.raises(AssertionError, match="10 and 9 reviews in"):
        checked(right[1:])
    with pytest.raises(AssertionError, match="1 and 0 files, ours and peer"):
        tokenize_case.check(job, output, {"peer": Output([])})

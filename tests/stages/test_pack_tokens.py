"""Blocks of token ids without Ray, against one list in memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.core.digests import file_sha256
from tasks.core.errors import RowsLost, SettingsError, SnapshotCorrupt
from tasks.core.snapshot_files import FileEntry, FileSink
from tasks.domain.schemas import TOKENS
from tasks.settings import load_settings
from tasks.stages import pack_tokens
from tasks.stages.pack_tokens import Packing, Part

GPT2_END, GPT2_SIZE = 50256, 50257
PACKS = (pack_tokens.pack_bin, pack_tokens.pack_parquet)
Documents = list[list[int]]

ids = st.integers(0, GPT2_SIZE - 1)
documents = st.lists(st.lists(ids, max_size=12), max_size=14)
cuts = st.lists(st.integers(0, 14), max_size=5)
sizes = st.integers(2, 9)


def by_hand(documents: Documents, size: int, end_of_text: int = GPT2_END) -> list[list[int]]:
    """All in one list, cut into blocks."""
    flat = [i for document in documents for i in [*document, end_of_text]]
    while len(flat) % size:
        flat.append(end_of_text)
    return [flat[at : at + size] for at in range(0, len(flat), size)]


def token_table(documents: Documents) -> pa.Table:
    rows = [{"review_id": "R", "input_ids": d, "n_tokens": len(d)} for d in documents]
    return pa.Table.from_pylist(rows, schema=TOKENS)


def write_files(folder: Path, documents: Documents, cuts: Sequence[int]) -> list[Path]:
    """The documents cut into files, some of which may be empty; row groups of three."""
    edges = [0, *sorted(min(c, len(documents)) for c in cuts), len(documents)]
    files = []
    for i, (a, b) in enumerate(pairwise(edges)):
        files.append(folder / f"in-{i}.parquet")
        pq.write_table(token_table(documents[a:b]), files[-1], row_group_size=3)
    return files


def in_process(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> list[Any]:
    return [function(*call) for call in calls]


def in_any_order(seed: int) -> pack_tokens.Each:
    """Each call once, as workers might: in some order, and some twice, as after a lost worker."""

    def each(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> list[Any]:
        rng, calls = random.Random(seed), list(calls)
        order = [*range(len(calls)), *(i for i in range(len(calls)) if rng.random() < 0.3)]
        rng.shuffle(order)
        results = {i: function(*calls[i]) for i in order}
        return [results[i] for i in range(len(calls))]

    return each


def packed(
    pack: Callable[..., tuple[list[FileEntry], int]],
    folder: Path,
    files: Sequence[Path],
    packing: Packing,
    each: pack_tokens.Each = in_process,
) -> tuple[list[list[int]], dict[str, int], list[FileEntry]]:
    """The blocks as they can be read from the files, what was counted, and the files' entries."""
    parts = pack_tokens.place(files, each)
    entries, written = pack(parts, packing, FileSink(str(folder)), each)
    for entry in entries:
        path = folder / entry.name
        assert (entry.size, entry.sha256) == (path.stat().st_size, file_sha256(path))
    if pack is pack_tokens.pack_bin:
        flat = np.fromfile(folder / "tokens.bin", packing.dtype)
        stored, blocks = len(flat), flat.reshape(-1, packing.block_size).tolist()
    else:
        table = pa.concat_tables([pq.read_table(folder / e.name) for e in entries])
        assert table.schema.field("input_ids").type == pa.list_(pa.int32(), packing.block_size)
        assert [e.rows for e in entries] == [pq.read_metadata(folder / e.name).num_rows for e in entries]
        blocks = table["input_ids"].to_pylist()
        stored = table.num_rows * packing.block_size
    documents, tokens = sum(p.documents for p in parts), sum(p.tokens for p in parts)
    counts = pack_tokens.account(
        documents=documents, tokens=tokens, written=written, stored=stored, block_size=packing.block_size
    )
    return blocks, {"documents": documents, "tokens": tokens, **counts}, entries


@pytest.mark.parametrize("pack", PACKS)
@given(documents, cuts, sizes, st.integers(1, 5), st.integers(1, 30), st.integers())
@example([], [], 4, 1, 8, 0)
@example([[]], [], 4, 1, 8, 0)
@example([[7] * 12, [], [8]], [1], 2, 1, 2, 0)  # a document of many blocks, alone in its file
@example([[1], [2], [3], [4]], [1, 2, 3], 9, 1, 9, 0)  # a block of many files
@example([[1, 2, 3]], [0, 1], 4, 1, 4, 0)  # files without documents; no padding
def test_the_blocks_are_those_of_one_long_list_however_it_is_cut_into_files_and_whoever_comes_first(
    pack: Any, documents: Documents, cuts: list[int], size: int, chunk: int, group: int, seed: int
) -> None:
    with (
        TemporaryDirectory() as folder,
        mock.patch.multiple(pack_tokens, CHUNK_DOCUMENTS=chunk, GROUP_IDS=group),
    ):
        files = write_files(Path(folder), documents, cuts)
        packing = Packing(size, GPT2_END, GPT2_SIZE)
        blocks, counts, entries = packed(pack, Path(folder), files, packing, in_any_order(seed))
        expected = by_hand(documents, size)
        assert blocks == expected
        lengths = sum(len(d) for d in documents)
        assert counts == {
            "documents": len(documents),
            "tokens": lengths,
            "blocks": len(expected),
            "padding": len(expected) * size - lengths - len(documents),
        }
        assert 0 <= counts["padding"] < size
        again = packed(pack, Path(folder), files, packing)[2]
        assert entries == again


@given(documents, cuts, cuts, sizes)
def test_the_bytes_of_tokens_bin_do_not_depend_on_how_the_reviews_were_cut_into_files(
    documents: Documents, cuts: list[int], others: list[int], size: int
) -> None:
    with TemporaryDirectory() as folder:
        packing = Packing(size, GPT2_END, GPT2_SIZE)
        entries = [
            packed(pack_tokens.pack_bin, Path(folder), write_files(Path(folder), documents, c), packing)[2]
            for c in (cuts, others)
        ]
    assert entries[0] == entries[1]


@pytest.mark.parametrize(("vocabulary", "bytes_each"), [(50257, 2), (65536, 2), (65537, 4), (128_256, 4)])
def test_ids_of_a_vocabulary_beyond_two_bytes_take_four(tmp_path: Path, vocabulary: int, bytes_each: int) -> None:
    last = vocabulary - 1
    files = write_files(tmp_path, [[0, last], [last]], [1])
    blocks, _, entries = packed(pack_tokens.pack_bin, tmp_path, files, Packing(5, last - 1, vocabulary))
    assert blocks == [[0, last, last - 1, last, last - 1]]
    assert [(e.name, e.size, e.rows) for e in entries] == [("tokens.bin", 5 * bytes_each, None)]
    raw = b"".join(i.to_bytes(bytes_each, "little") for i in blocks[0])
    assert (tmp_path / "tokens.bin").read_bytes() == raw


def test_one_review_longer_than_a_row_group_of_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_tokens, "GROUP_IDS", 4096)
    documents = [[1, 2], [i % 50_000 for i in range(100_000)], [3]]
    files = write_files(tmp_path, documents, [1, 2])
    for pack in PACKS:
        assert packed(pack, tmp_path, files, Packing(1024, GPT2_END, GPT2_SIZE))[0] == by_hand(documents, 1024)
    assert pq.read_metadata(tmp_path / "part-00000.parquet").row_group(0).num_rows == 1
    assert [pq.read_metadata(tmp_path / "part-00001.parquet").row_group(i).num_rows for i in range(2)] == [4, 4]


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("files", [0, 1, 3])
def test_no_reviews_at_all_make_no_blocks(tmp_path: Path, pack: Any, files: int) -> None:
    given = write_files(tmp_path, [], [0] * (files - 1)) if files else []
    blocks, counts, entries = packed(pack, tmp_path, given, Packing(8, GPT2_END, GPT2_SIZE))
    assert blocks == []
    assert counts == {"documents": 0, "tokens": 0, "blocks": 0, "padding": 0}
    assert len(entries) == 1


def test_an_id_that_two_bytes_cannot_hold_is_refused_and_not_made_another(tmp_path: Path) -> None:
    packing = Packing(4, GPT2_END, GPT2_SIZE)
    for wrong in (65_536, -1):
        files = write_files(tmp_path, [[1, 2], [3, wrong]], [])
        with pytest.raises(SnapshotCorrupt, match=rf"the id {wrong} is outside the vocabulary of 50,257.*uint16"):
            packed(pack_tokens.pack_bin, tmp_path, files, packing)


@pytest.mark.parametrize("pack", PACKS)
def test_a_wrong_n_tokens_is_found_before_it_shifts_everything_after_it(tmp_path: Path, pack: Any) -> None:
    (file,) = write_files(tmp_path, [[1, 2], [3, 4, 5]], [])
    table = token_table([[1, 2], [3, 4, 5]])
    pq.write_table(table.set_column(2, TOKENS.field("n_tokens"), [pa.array([3, 2], pa.int32())]), file)
    with pytest.raises(SnapshotCorrupt, match="n_tokens"):
        packed(pack, tmp_path, [file], Packing(4, GPT2_END, GPT2_SIZE))


@pytest.mark.parametrize("pack", PACKS)
def test_a_file_that_holds_less_than_was_counted_is_rows_lost(tmp_path: Path, pack: Any) -> None:
    (file,) = write_files(tmp_path, [[1, 2], [3]], [])
    packing, parts = Packing(4, GPT2_END, GPT2_SIZE), [Part(file, documents=3, tokens=6, start=0)]
    entries, written = pack(parts, packing, FileSink(str(tmp_path)), in_process)
    assert written == 5
    stored = entries[0].size // 2 if pack is pack_tokens.pack_bin else 4 * entries[0].rows
    with pytest.raises(RowsLost, match="6 tokens and 3 documents in, but 5 ids"):
        pack_tokens.account(documents=3, tokens=6, written=written, stored=stored, block_size=4)


@pytest.mark.parametrize(("written", "stored"), [(9, 8), (9, 16), (8, 12), (10, 12)])
def test_more_or_fewer_ids_than_the_blocks_hold_are_rows_lost(written: int, stored: int) -> None:
    right = {"documents": 3, "tokens": 6, "block_size": 4}
    assert pack_tokens.account(**right, written=9, stored=12) == {"blocks": 3, "padding": 3}
    with pytest.raises(RowsLost):
        pack_tokens.account(**right, written=written, stored=stored)


@pytest.mark.parametrize("facts", [{}, {"end_of_text": None, "vocabulary": 30_522}])
def test_a_tokenizer_without_an_end_of_text_is_named_as_the_reason(facts: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"tokenize\.tokenizer: the tokenizer has no end-of-text.*\n.*eos_token"):
        pack_tokens.packing_of(facts, 1024)
    # 0 is an id like any other.
    assert pack_tokens.packing_of({"end_of_text": 0, "vocabulary": 50_304}, 1024) == Packing(1024, 0, 50_304)


@pytest.mark.parametrize("size", ["0", "1", "-8", "1.5", "many"])
def test_a_block_size_that_holds_no_text_is_refused(size: str) -> None:
    with pytest.raises(SettingsError, match=r"pack_tokens\.block_size: .*(greater than or equal to 2|integer)"):
        load_settings(overrides=[f"pack_tokens.block_size={size}"])


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"pack_tokens\.format: .*'bin' or 'parquet'"):
        load_settings(overrides=["pack_tokens.format=npy"])

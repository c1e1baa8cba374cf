"""Rows of the next-token training: every id but a list's first is a target, once, whatever file it comes from."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch", reason="needs the extra deep: torch")

from tasks.core.errors import InputError  # noqa: E402
from tasks.core.snapshots import Snapshot  # noqa: E402
from tasks.core.storage.store import SnapshotStore  # noqa: E402
from tasks.deep.token_rows import check_ids, from_files, pieces  # noqa: E402
from tasks.stages import pack_tokens  # noqa: E402
from tests.support.stage_runs import NOTHING_KNOWN, put  # noqa: E402

END = 99


def write(folder: Path, ids: list[Any], kind: pa.DataType | None = None) -> Path:
    pq.write_table(pa.table({"input_ids": pa.array(ids, kind or pa.list_(pa.int32()))}), folder / "ids.parquet")
    return folder


def targets(path: Path, positions: int) -> list[tuple[int, int]]:
    """Return each target with the token before it."""
    rows = from_files(path, positions)
    assert rows["tokens"].shape[1] <= positions
    there = rows["mask"]
    assert torch.equal(there.float(), rows["weight"])
    return list(zip(rows["tokens"][there].tolist(), rows["target"][there].tolist(), strict=True))


@pytest.mark.parametrize("positions", [1, 2, 3, 4, 7, 8, 9, 50])
def test_every_id_but_a_lists_first_is_a_target_once(positions: int, tmp_path: Path) -> None:
    lists = [[*range(9)], [], [20], [30, 31], [*range(40, 46)]]
    write(tmp_path, lists)
    assert targets(tmp_path, positions) == [pair for ids in lists for pair in pairwise(ids)]


def test_pieces_are_filled_at_their_ends() -> None:
    rows, there = pieces(np.arange(9), np.array([6, 1, 2]), 4)
    assert rows.tolist() == [[0, 1, 2, 3, 4], [4, 5, 0, 0, 0], [7, 8, 0, 0, 0]]
    assert there.sum(1).tolist() == [5, 2, 2]


def packed(store: SnapshotStore, form: str) -> Snapshot:
    """A snapshot as `pack-tokens` commits it: 7 tokens of 3 reviews in 4 blocks of 3 ids, 2 of them padding."""
    table = pa.table({"input_ids": [[1, 2, 3, 4], [], [5, 6, 7]], "n_tokens": [4, 0, 3]})
    table = table.cast(pa.schema({"input_ids": pa.list_(pa.int32()), "n_tokens": pa.int32()}))
    documents = put(store, "tokenize", {"": [table]})
    out = store.open_attempt("pack-tokens", form)
    packing = pack_tokens.Packing(3, END, 100)

    def each(function: Any, calls: Any) -> list[Any]:
        return [function(*call) for call in calls]

    pack = pack_tokens.pack_bin if form == "bin" else pack_tokens.pack_parquet
    entries, _ = pack(pack_tokens.place(documents.files(), each), packing, out.sink, each)
    out.add(entries)
    out.count(documents=3, tokens=7, blocks=4, padding=2)
    out.fact(dtype=packing.dtype.name, **vars(packing))
    return store.commit(out, **NOTHING_KNOWN)


@pytest.mark.parametrize("form", ["bin", "parquet"])
def test_what_pack_tokens_writes_is_read_in_either_format(store: SnapshotStore, form: str) -> None:
    snapshot = packed(store, form)
    expected = [(1, 2), (2, 3), (4, END), (END, END), (5, 6), (6, 7)]  # the last block holds one id and padding
    places = [Path(snapshot.folder), Path(snapshot.folder, "manifest.json"), snapshot.root]
    for place in [*places, *([snapshot.path("tokens.bin")] if form == "bin" else [])]:
        assert targets(place, 8) == expected, place
    documents = next(s for s in store if s.stage == "tokenize")
    assert targets(Path(documents.folder), 8) == [(1, 2), (2, 3), (3, 4), (5, 6), (6, 7)]


def test_an_id_that_only_ends_rows_is_checked_too(tmp_path: Path) -> None:
    rows = from_files(write(tmp_path, [[1, 2, 9], [3, 9]]), 8)
    check_ids(rows, 10)
    with pytest.raises(InputError, match="token 9 of a vocabulary of 9"):
        check_ids(rows, 9)
    with pytest.raises(InputError, match="token -1 of a vocabulary of 10"):
        check_ids(from_files(write(tmp_path, [[1, -1, 2]]), 8), 10)


def test_what_holds_no_ids_is_refused_naming_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no parquet files"):
        from_files(tmp_path, 8)
    for ids, kind in ((["good"], pa.string()), ([3], pa.int32()), ([["good"]], pa.list_(pa.string()))):
        with pytest.raises(InputError, match=r"ids.parquet: cannot be read"):
            from_files(write(tmp_path, ids, kind), 8)
    with pytest.raises(InputError, match="has an id that is null"):
        from_files(write(tmp_path, [[1, None, 2]]), 8)
    with pytest.raises(InputError, match="no row has two tokens"):
        from_files(write(tmp_path, [[1], None, []]), 8)
    pq.write_table(pa.table({"text": ["good"]}), tmp_path / "ids.parquet")
    with pytest.raises(InputError, match="no column input_ids"):
        from_files(tmp_path, 8)
    (tmp_path / "ids.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="cannot be read"):
        from_files(tmp_path / "ids.parquet", 8)
    (tmp_path / "tokens.bin").write_bytes(b"")
    with pytest.raises(InputError, match="no manifest says the type"):
        from_files(tmp_path / "tokens.bin", 8)


def test_a_snapshot_without_ids_is_refused(store: SnapshotStore) -> None:
    with pytest.raises(InputError, match="a snapshot of train has no ids"):
        from_files(Path(put(store, "train", {}, files={"model.ubj": b"x"}).folder), 8)

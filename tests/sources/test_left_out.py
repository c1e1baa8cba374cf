"""What stands in a given folder and is not read: it is listed with the reason, and never rows of dead files."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import tarfile
from pathlib import Path

import pytest

from tasks import sources
from tasks.core.errors import InputError
from tasks.sources import locations, signatures
from tasks.sources.inspection import inspect
from tests.support.accounts import read_all, zipped
from tests.support.raw_files import BASE, delimited, review, write_parquet

HIDDEN = "names that begin with a dot or an underscore are skipped"
CSV = delimited([review(review_id=f"R{i}") for i in range(3)]).encode()


def listed(path: Path) -> dict[str, str]:
    """What discovery leaves out of a folder; inspect leaves out the same."""
    source = sources.discover(str(path), "amazon-us")
    found = {q.name: q.reason for q in source.left_out}
    judged = inspect([str(path)], "amazon-us").chosen
    assert judged is not None
    assert {q.name: q.reason for q in judged.quarantined if q.left_out} == found
    assert {q.name for q in judged.quarantined if not q.left_out} == {q.name for q in source.quarantined}
    return found


def write(folder: Path, **files: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "good.csv").write_text(delimited([BASE]))
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def tar_of(**files: bytes) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def workbook() -> bytes:
    return zipped({"[Content_Types].xml": b"<x/>", "xl/workbook.xml": b"<x/>", "xl/worksheets/sheet1.xml": b"<x/>"})


class TestUnknownNames:
    @pytest.mark.parametrize(
        ("name", "data"),
        [
            ("0000_part_00", CSV),
            ("000000_0.gz", gzip.compress(CSV)),
            ("a.csv.xz", lzma.compress(CSV)),
            ("a.csv.gzip", gzip.compress(CSV)),
            ("a.xz", lzma.compress(CSV)),
        ],
    )
    def test_what_its_first_bytes_tell_to_be_reviews_is_read(self, tmp_path: Path, name: str, data: bytes) -> None:
        found = read_all(write(tmp_path / "in", **{name: data}))
        assert (len(found.kept), found.damage) == (4, {})
        assert listed(tmp_path / "in") == {}

    @pytest.mark.parametrize("name", ["a", "a.dat", "a.parq", "a.parquet.gzip", "a.parquet.1", "a.csv"])
    def test_parquet_is_read_under_any_name(self, tmp_path: Path, name: str) -> None:
        write_parquet(write(tmp_path / "in") / name, [review(review_id="R2")])
        assert [row["review_id"] for row in read_all(tmp_path / "in").kept] in (["R1", "R2"], ["R2", "R1"])

    def test_all_else_is_listed_with_the_reason(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "in")
        other = {
            "2021.csv.Z": (
                CSV,
                "its ending, .Z, is none of those that are read; to read it anyway, name the file itself",
            ),
            "packed.csv.Z": (b"\x1f\x9d\x90abc", "packed with compress (.Z): unpack it first"),
            "2021.csv.bak": (CSV, "its ending, .bak, is that of a copy or of half a file"),
            "2021.csv~": (CSV, "its ending, .csv~, is that of a copy or of half a file"),
            "LICENSE": (b"Do what you like, but\nbe nice.\n", "neither its name nor its content is that of reviews"),
            "a.avro": (b"Obj\x01\x04", "an Avro file: write its rows as parquet, CSV or JSON lines"),
            "a.tgz": (gzip.compress(tar_of(a=CSV)), "a tar archive: unpack it first"),
            "a.tar.gz": (gzip.compress(tar_of(a=CSV)), "a tar archive: unpack it first"),
            "a.xlsx": (workbook(), "an Excel workbook: save its sheet as CSV"),
            "a.xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 old", "an old Office document, such as an Excel workbook"),
            "_SUCCESS": (b"", HIDDEN),
            ".good.csv.crc": (b"crc", HIDDEN),
        }
        for name, (data, _) in other.items():
            (folder / name).write_bytes(data)
        for hidden in (".git", "_temporary/0"):
            (folder / hidden).mkdir(parents=True)
            (folder / hidden / "a.csv").write_bytes(CSV)
        os.symlink("..", folder / "up")
        found = listed(folder)
        for name, (_, reason) in other.items():
            assert found.pop(name).startswith(reason), name
        assert found == {".git/": HIDDEN, "_temporary/": HIDDEN, "up/": "a linked folder; not followed"}
        assert len(read_all(folder, "amazon-us", "ingest.damaged_files=refuse").kept) == 1
        (layout,) = inspect([str(folder)]).layouts
        assert [file.name for file in layout.files] == ["good.csv"]

    def test_members_of_a_zip_are_listed_too(self, tmp_path: Path) -> None:
        inner = zipped({"b.csv": CSV})
        members = {"a.csv": CSV, "part_00": CSV, "README": b"words", "notes.docx": b"x", "b.zip": inner}
        (tmp_path / "a.zip").write_bytes(zipped(members))
        found = listed(tmp_path)
        assert list(found) == ["a.zip/README", "a.zip/notes.docx"]
        assert found["a.zip/notes.docx"] == "its ending, .docx, is none of those that are read"
        read = read_all(tmp_path)
        assert (len(read.kept), read.damage) == (6, {"a.zip/b.zip": "packed twice, a zip file inside zip"})

    def test_another_file_beside_the_reviews_changes_the_source_and_no_part(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "in")
        before = sources.discover(str(folder), "amazon-us")
        (folder / "notes.md").write_text("words")
        after = sources.discover(str(folder), "amazon-us")
        assert before.digest != after.digest
        assert [sources.identity(p) for p in sources.plan(before)] == [sources.identity(p) for p in sources.plan(after)]

    def test_a_glob_lists_the_folders_that_it_matches_but_does_not_enter(self, tmp_path: Path) -> None:
        write(tmp_path / "in" / "2019")
        (tmp_path / "in" / "a.csv").write_bytes(CSV)
        assert [f.name for f in locations.find([str(tmp_path / "in" / "*")]) if f.left_out] == ["2019/"]
        assert [f.name for f in locations.find([str(tmp_path / "in" / "**" / "*")]) if f.left_out] == []

    def test_a_file_that_may_not_be_read_stands_aside(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (write(tmp_path / "in") / "secret.csv").write_bytes(CSV)
        monkeypatch.setattr("tasks.sources.locations.os.access", lambda path, _: Path(path).name != "secret.csv")
        found = read_all(tmp_path / "in")
        assert (len(found.kept), found.damage) == (1, {"secret.csv": "it may not be read: permission denied"})

    def test_a_folder_of_others_alone_is_refused_with_a_reason(self, tmp_path: Path) -> None:
        (tmp_path / "a.tgz").write_bytes(b"")
        with pytest.raises(InputError, match=r"no review files in this folder, only \.tgz \(a\.tgz: a tar archive"):
            read_all(tmp_path)
        (tmp_path / "README").write_text("just a few words\n")
        with pytest.raises(InputError, match=r"no review files here, only README, a\.tgz|only a\.tgz, README"):
            read_all(tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("a.tar", tar_of(a=CSV), "this is a tar archive"),
        ("a.tar.gz", gzip.compress(tar_of(a=CSV)), "this is a tar archive"),
        ("a.csv.gz", gzip.compress(tar_of(a=CSV)), "this is a tar archive"),
        ("a.xlsx", workbook(), "this is an Excel workbook"),
        ("a.csv", workbook(), "this is an Excel workbook"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" * 99, "this is an old Office document"),
        ("a.csv.Z", b"\x1f\x9d\x90abc", "packed with compress"),
        ("a.orc", b"ORC\n\x03\x00", "this is an ORC file"),
    ],
)
def test_a_file_of_another_format_that_is_named_is_refused_by_its_format(
    tmp_path: Path, name: str, data: bytes, what: str
) -> None:
    (tmp_path / name).write_bytes(data)
    for look in (lambda: read_all(tmp_path / name), lambda: inspect([str(tmp_path / name)])):
        with pytest.raises(InputError, match=what) as refused:
            look()
        assert (
            "unpack it" in refused.value.fix
            or "save its sheet" in refused.value.fix
            or "write its" in refused.value.fix
        )


@pytest.mark.parametrize("text", [b"ORC,star\nx,1\n", b"PARENT,star\n1,2\n", b"user,item\n" * 100, b"{}" * 300])
def test_texts_are_taken_for_no_other_format(text: bytes) -> None:
    assert signatures.recognized(text) is None


def table(folder: Path, kind: str) -> Path:
    """A folder that holds a table with a log, and a parquet file with rows that no longer exist."""
    data = folder / "data" if kind == "Iceberg" else folder
    data.mkdir(parents=True)
    write_parquet(data / "dead.parquet", [BASE])
    log = {"Delta": "_delta_log/00000000000000000000.json", "Iceberg": "metadata/v1.metadata.json"}
    path = folder / log.get(kind, ".hoodie/hoodie.properties")
    path.parent.mkdir()
    path.write_text("{}")
    return folder


class TestTables:
    @pytest.mark.parametrize("kind", ["Delta", "Iceberg", "Hudi"])
    def test_no_dead_file_is_read_wherever_the_input_begins(self, tmp_path: Path, kind: str) -> None:
        root = table(tmp_path / "in" / "table", kind)
        file = next(root.rglob("dead.parquet"))
        local = (root, tmp_path / "in", file.parent, file, f"{file.parent}/*.parquet")
        for given in (*local, *(f"file://{path}" for path in local)):
            for look in (lambda g: sources.discover(str(g), "amazon-us"), lambda g: inspect([str(g)])):
                with pytest.raises(InputError, match=f"part of an? {kind} table") as refused:
                    look(given)
                assert "as plain parquet" in refused.value.fix

    @pytest.mark.parametrize("kind", ["Delta", "Iceberg", "Hudi"])
    def test_beside_other_files_it_stands_aside_in_one_line(self, tmp_path: Path, kind: str) -> None:
        folder = write(tmp_path / "in")
        table(folder / "table", kind)
        for given in (folder, f"file://{folder}"):
            found = read_all(str(given))
            assert len(found.kept) == 1
            assert list(found.damage) == ["table/"]
            assert f"{kind} table" in found.damage["table/"]


class TestSideFiles:
    @pytest.mark.parametrize(
        "text",
        [
            json.dumps({"tool": "export", "files": ["a", "b"]}, indent=2),
            json.dumps({"tool": "export", "files": [f"file {i}" for i in range(9000)]}, indent=2),
            json.dumps({"tool": "export", "version": 3}),
            json.dumps([{"tool": "export"}, {"tool": "other"}]),
            json.dumps(["a.csv", "b.csv"], indent=1),
        ],
    )
    def test_a_small_file_of_another_shape_is_named_and_its_lines_are_no_rejects(
        self, tmp_path: Path, text: str
    ) -> None:
        (write(tmp_path / "in") / "info.json").write_text(text)
        found = read_all(tmp_path / "in")
        assert (len(found.kept), found.rejected, list(found.damage)) == (1, [], ["info.json"])
        judged = inspect([str(tmp_path / "in")]).chosen
        assert judged is not None
        assert (judged.usable, judged.rows, [q.name for q in judged.quarantined]) == (1, 1, ["info.json"])

    def test_lines_that_are_no_json_among_reviews_stay_rejects(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text("{oops\n" + json.dumps(BASE) + "\n")
        found = read_all(tmp_path)
        assert (len(found.kept), len(found.rejected), found.damage) == (1, 1, {})

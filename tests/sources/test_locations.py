"""Which files an input names: a file, a folder, a glob, several of them, here or behind a URL; names and order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.core.errors import InputError
from tasks.sources import locations


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def names(*inputs: str | Path) -> list[str]:
    found = [f for f in locations.find([str(i) for i in inputs]) if not f.left_out]
    assert [f.problem for f in found] == [None] * len(found)
    assert all(Path(f.path).is_absolute() for f in found)
    return [f.name for f in found]


class TestHere:
    def test_a_file_that_is_named_is_taken_whatever_its_ending(self, tmp_path: Path) -> None:
        make(tmp_path, "reviews.dump", "_hidden", "b.csv")
        assert names(tmp_path / "reviews.dump") == ["reviews.dump"]
        assert names(tmp_path / "_hidden") == ["_hidden"]
        assert locations.find([str(tmp_path / "b.csv")])[0].size == len("b.csv")

    def test_of_a_folder_files_with_a_known_ending_are_taken_by_name_at_any_depth(self, tmp_path: Path) -> None:
        make(tmp_path, "b/1.json", "a.csv", "b/0.TSV", "B.parquet", "c.jsonl.gz", "notes.docx", "d.ndjson", "d.zip")
        make(tmp_path, "e.txt.zst", "f.csv.bz2", "f.gz", "g.tar.gz", "reviews.2014.zip", "h.csv.xz", "i.csv.gzip")
        wanted = ["B.parquet", "a.csv", "b/0.TSV", "b/1.json", "c.jsonl.gz", "d.ndjson", "d.zip", "e.txt.zst"]
        assert names(tmp_path) == [*wanted, "f.csv.bz2", "f.gz", "h.csv.xz", "i.csv.gzip", "reviews.2014.zip"]
        found = locations.find([str(tmp_path)])
        assert [f.name for f in found if f.doubtful] == ["f.gz"]
        assert [f.name for f in found if f.left_out] == ["g.tar.gz", "notes.docx"]

    def test_hidden_files_and_those_of_other_systems_are_left_out(self, tmp_path: Path) -> None:
        make(tmp_path, ".a.csv", "_SUCCESS.csv", "_temporary/0/a.csv", ".git/a.csv", "a.csv", "x/.b.csv")
        assert names(tmp_path) == ["a.csv"]

    def test_a_glob_takes_what_it_matches_and_names_start_where_it_begins(self, tmp_path: Path) -> None:
        make(tmp_path, "2014/a.csv", "2014/b.dump", "2015/a.csv", "2015/deep/a.csv", "other.csv")
        assert names(tmp_path / "20*" / "a.csv") == ["2014/a.csv", "2015/a.csv"]
        assert names(tmp_path / "2014" / "*") == ["a.csv", "b.dump"]
        assert names(tmp_path / "**" / "a.csv") == ["2014/a.csv", "2015/a.csv", "2015/deep/a.csv"]
        assert names(tmp_path / "201[5-9]" / "?.csv") == ["2015/a.csv"]

    def test_names_with_the_signs_of_a_glob_are_taken_as_they_are(self, tmp_path: Path) -> None:
        make(tmp_path, "What is [this]?.csv")
        assert names(tmp_path / "What is [this]?.csv") == names(tmp_path) == ["What is [this]?.csv"]

    def test_paths_may_be_relative_lead_upwards_or_start_at_home(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make(tmp_path, "in/a.csv", "work/b.csv")
        monkeypatch.chdir(tmp_path / "work")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert names("../in") == names("~/in") == names("../in/*.csv") == ["a.csv"]
        assert locations.find(["../in"])[0].path == str(tmp_path / "in" / "a.csv")

    def test_the_place_does_not_show_in_the_names(self, tmp_path: Path) -> None:
        one, other = make(tmp_path / "x", "b.csv", "a/c.csv"), make(tmp_path / "y" / "z", "b.csv", "a/c.csv")
        assert names(one) == names(other) == names(f"{other}/") == ["a/c.csv", "b.csv"]

    @pytest.mark.parametrize(
        ("given", "what"),
        [
            ("nowhere", "no such file or folder"),
            ("empty", "this folder is empty"),
            ("others", r"no review files in this folder, only \.docx"),
            ("*.csv", "no file matches"),
        ],
    )
    def test_where_there_is_nothing_it_says_so(self, tmp_path: Path, given: str, what: str) -> None:
        (tmp_path / "empty").mkdir()
        make(tmp_path, "others/a.docx")
        with pytest.raises(InputError, match=what) as refused:
            names(tmp_path / given)
        assert given in refused.value.where
        assert refused.value.fix


class TestSeveral:
    def test_files_of_several_inputs_stand_in_their_order_below_the_names_of_their_folders(
        self, tmp_path: Path
    ) -> None:
        make(tmp_path, "may/a.csv", "june/a.csv", "april/1.csv", "april/2.csv")
        given = [tmp_path / "may" / "a.csv", tmp_path / "june", tmp_path / "april" / "*.csv"]
        assert names(*given) == ["may/a.csv", "june/a.csv", "april/1.csv", "april/2.csv"]

    def test_a_folder_added_before_changes_no_name_of_the_others(self, tmp_path: Path) -> None:
        make(tmp_path, "may/a.csv", "june/a.csv", "july/a.csv")
        assert names(tmp_path / "june", tmp_path / "july")[-1] == names(tmp_path / "may", tmp_path / "july")[-1]

    def test_equal_names_are_told_apart(self, tmp_path: Path) -> None:
        make(tmp_path, "x/in/a.csv", "y/in/a.csv", "y/in/b.csv")
        assert names(tmp_path / "x" / "in", tmp_path / "y" / "in") == ["000/in/a.csv", "001/in/a.csv", "in/b.csv"]

    def test_what_is_named_twice_is_read_once(self, tmp_path: Path) -> None:
        make(tmp_path, "in/a.csv", "in/b.csv")
        assert names(tmp_path / "in", tmp_path / "in" / "a.csv") == ["in/a.csv", "in/b.csv"]


class TestLinks:
    def test_a_link_within_the_folder_is_followed_and_one_out_of_it_is_not(self, tmp_path: Path) -> None:
        folder = make(tmp_path / "in", "a.csv", "deep/b.csv")
        make(tmp_path, "secret.csv")
        os.symlink("deep/b.csv", folder / "inside.csv")
        os.symlink("../secret.csv", folder / "out.csv")
        found = {f.name: f.problem for f in locations.find([str(folder)])}
        out = "a symbolic link out of the folder; not followed"
        assert found == {"a.csv": None, "deep/b.csv": None, "inside.csv": None, "out.csv": out}
        assert {f.name: f.problem for f in locations.find([str(folder / "*.csv")])}["out.csv"] == out

    def test_a_link_that_is_named_itself_is_followed(self, tmp_path: Path) -> None:
        make(tmp_path, "real/a.csv")
        os.symlink("real", tmp_path / "folder")
        os.symlink("real/a.csv", tmp_path / "file.csv")
        assert names(tmp_path / "folder") == ["a.csv"]
        assert names(tmp_path / "file.csv") == ["file.csv"]

    def test_a_link_to_nothing_and_a_pipe_are_told_and_not_opened(self, tmp_path: Path) -> None:
        os.symlink("gone", tmp_path / "a.csv")
        os.mkfifo(tmp_path / "b.csv")
        what = "a broken link, or not a regular file"
        assert [(f.name, f.problem) for f in locations.find([str(tmp_path)])] == [("a.csv", what), ("b.csv", what)]

    def test_a_linked_folder_is_not_followed_so_that_a_loop_ends(self, tmp_path: Path) -> None:
        make(tmp_path, "in/a.csv")
        os.symlink(".", tmp_path / "in" / "again")
        assert names(tmp_path / "in") == ["a.csv"]


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("a.csv", ".csv"),
        ("A.CSV.GZ", ".csv"),
        ("a.jsonl.zst.zip", ".jsonl"),
        ("a.zip", ".zip"),
        ("reviews.2014.zip", ".zip"),
        ("a.gz", ""),
        ("a.b.c", ".c"),
        ("csv", ""),
        ("x.csv/a", ""),
    ],
)
def test_the_ending_of_a_packed_file_is_the_one_before(name: str, ending: str) -> None:
    assert locations.ending(name) == ending


class TestBehindUrls:
    @pytest.fixture
    def memory(self) -> Iterator[str]:
        """A folder in the memory of this process."""
        import fsspec

        system = fsspec.filesystem("memory")
        for name in ("b.csv", "a/c.json.gz", "a/.hidden.csv", "_x/d.csv", "notes.docx"):
            system.pipe(f"/bucket/in/{name}", name.encode())
        yield "memory://bucket/in"
        system.rm("/bucket", recursive=True)

    def test_a_folder_a_file_and_a_glob(self, memory: str) -> None:
        def listed(url: str) -> list[tuple[str, bytes]]:
            return [(f.name, locations.open_raw(f.path).read()) for f in locations.find([url]) if not f.left_out]

        here = [("a/c.json.gz", b"a/c.json.gz"), ("b.csv", b"b.csv")]
        assert listed(memory) == listed(f"{memory}/") == here
        assert listed(f"{memory}/notes.docx") == [("notes.docx", b"notes.docx")]
        assert listed(f"{memory}/*/*.gz") == here[:1]
        assert [f.size for f in locations.find([memory]) if not f.left_out] == [11, 5]
        assert [f.name for f in locations.find([memory]) if f.left_out] == ["_x/", "a/.hidden.csv", "notes.docx"]

    def test_files_of_this_machine_have_urls_too(self, tmp_path: Path) -> None:
        make(tmp_path, "in/b.csv", "in/a.csv")
        found = locations.find([f"file://{tmp_path}/in"])
        assert [(f.name, f.path) for f in found] == [
            ("a.csv", f"file://{tmp_path}/in/a.csv"),
            ("b.csv", f"file://{tmp_path}/in/b.csv"),
        ]
        assert locations.open_raw(found[0].path).read() == b"in/a.csv"

    def test_here_and_there_at_once(self, memory: str, tmp_path: Path) -> None:
        make(tmp_path, "near/a.csv")
        found = locations.find([memory, str(tmp_path / "near")])
        assert [f.name for f in found if not f.left_out] == ["in/a/c.json.gz", "in/b.csv", "near/a.csv"]

    @pytest.mark.parametrize("url", ["memory://bucket/in/*.tsv", "memory://elsewhere", "memory://bucket/in/x.csv"])
    def test_nothing_there(self, memory: str, url: str) -> None:
        with pytest.raises(InputError, match="no review files at this address"):
            locations.find([url])

    @pytest.mark.parametrize("url", ["nonsense://bucket/in", "s3://bucket/in?colour=red"])
    def test_what_cannot_be_reached_is_told_in_one_line_without_the_password(self, url: str) -> None:
        with pytest.raises(InputError, match="cannot be reached") as refused:
            locations.find([url.replace("://", "://me:secret@")])
        assert "secret" not in str(refused.value)
        assert len(str(refused.value).splitlines()) == 2

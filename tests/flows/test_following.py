"""Batches of a folder that grows: each file is in one that is done, wherever the process was killed."""

from __future__ import annotations

import io
import json
import signal
import threading
from pathlib import Path

import pytest
from rich.console import Console

from flows.cli import follow
from flows.cli.follow import Follower, Totals, ending, one_folder
from flows.run.following import Batch, Following, check_out
from flows.run.scoring import for_scoring
from tasks.core.errors import ChunkFailed, InputError, RegistryError, RunError
from tasks.parallel import stream_folder
from tasks.settings import Settings, load_settings


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    return tmp_path


def opened(place: Path, files: int = 10) -> Following:
    return Following(place / "in", place / "out", files)


def write(place: Path, *names: str) -> None:
    for name in names:
        (place / "in" / name).write_text(f'{{"text": "{name}"}}\n')


def after_two_looks(following: Following) -> Batch | None:
    return following.next() or following.next()


def begun(following: Following) -> Batch:
    batch = after_two_looks(following)
    assert batch is not None
    return batch


def names(batch: Batch) -> list[str]:
    return [file.path.name for file in batch.files]


def finish(batch: Batch, *, finished: bool = True) -> None:
    """Leave the predictions of a batch, or what a kill left of them."""
    batch.folder.mkdir(exist_ok=True)
    (batch.folder / "predictions.json").write_text(json.dumps({"finished": finished}))


def test_each_file_is_in_one_batch_of_at_most_so_many_files(place: Path) -> None:
    following = opened(place, files=2)
    write(place, "a.jsonl", "b.jsonl", "c.jsonl")
    first = begun(following)
    following.done(first)
    second = begun(following)
    following.done(second)
    assert (names(first), names(second)) == (["a.jsonl", "b.jsonl"], ["c.jsonl"])
    assert [batch.folder.name for batch in (first, second)] == ["batch-000001", "batch-000002"]
    assert after_two_looks(following) is None
    assert after_two_looks(opened(place)) is None
    write(place, "d.jsonl")
    assert begun(opened(place)).folder.name == "batch-000003"


@pytest.mark.parametrize("exported", ["nothing", "a part"])
def test_killed_while_it_was_scored_a_batch_is_scored_again_under_its_name(place: Path, exported: str) -> None:
    write(place, "a.jsonl", "b.jsonl")
    first = begun(opened(place))
    if exported == "a part":
        finish(first, finished=False)
    write(place, "c.jsonl")
    following = opened(place)
    again = following.next()
    assert again == first
    assert following.next() == first  # until it is done
    following.done(first)
    assert names(begun(following)) == ["c.jsonl"]


@pytest.mark.parametrize("noted", [0, 1])
def test_killed_while_files_were_taken_note_of_a_batch_is_not_scored_again(place: Path, noted: int) -> None:
    write(place, "a.jsonl", "b.jsonl")
    following = opened(place)
    first = begun(following)
    finish(first)
    following.done(Batch(first.folder, first.files[:noted]))
    assert after_two_looks(opened(place)) is None
    ledger = [json.loads(line) for line in (place / "out" / "taken.jsonl").read_text().splitlines()]
    assert sorted(Path(line["name"]).name for line in ledger) == ["a.jsonl", "b.jsonl"]
    assert {line["batch"] for line in ledger} == {"batch-000001"}


def test_files_that_were_moved_after_a_kill_come_as_new_ones(place: Path) -> None:
    write(place, "a.jsonl", "b.jsonl")
    begun(opened(place))
    (place / "in" / "a.jsonl").rename(place / "in" / "z.jsonl")
    following = opened(place)
    left = begun(following)
    following.done(left)
    moved = begun(following)
    assert (names(left), names(moved)) == (["b.jsonl"], ["z.jsonl"])
    (place / "in" / "z.jsonl").unlink()
    following = opened(place)
    assert after_two_looks(following) is None
    write(place, "c.jsonl")
    assert begun(following).folder.name == "batch-000002"


def test_files_that_fail_together_come_one_by_one_and_a_bad_one_is_noted_with_the_problem(place: Path) -> None:
    write(place, "a.jsonl", "b.jsonl")
    following = opened(place)
    following.split(begun(following))
    first = begun(following)
    following.done(first, "no column text")
    second = begun(following)
    following.done(second)
    assert [names(first), names(second)] == [["a.jsonl"], ["b.jsonl"]]
    assert first.folder.name == "batch-000001"
    problems = [json.loads(line).get("problem") for line in (place / "out" / "taken.jsonl").read_text().splitlines()]
    assert problems == ["no column text", None]
    assert after_two_looks(opened(place)) is None


class Scripted(Follower):
    """A follower whose scoring fails for bad files, and once for want of the registry. It ends with the file `last`."""

    last = "z.jsonl"

    def __init__(self, place: Path, ended: threading.Event) -> None:
        settings = load_settings(overrides=["follow.poll_seconds=0.001", "follow.retry_seconds=0.001"])
        self.said = io.StringIO()
        super().__init__(settings, opened(place), "champion", Console(file=self.said, width=200))
        self.ended, self.calls = ended, list[list[str]]()

    def _scored(self, batch: Batch) -> tuple[int, int]:
        self.calls.append(names(batch))
        if len(self.calls) == 1:
            raise RegistryError("MLflow cannot be used")
        if any("bad" in name for name in names(batch)):
            raise InputError("the reviews have no column text")
        if names(batch) == [self.last]:
            self.ended.set()
        return 10, 1


def test_a_registry_that_is_down_is_waited_for_and_a_bad_file_harms_no_other(place: Path) -> None:
    write(place, "a.jsonl", "bad.jsonl", "z.jsonl")
    ended = threading.Event()
    follower = Scripted(place, ended)
    follower.work(ended)
    every = ["a.jsonl", "bad.jsonl", "z.jsonl"]
    assert follower.calls == [every, every, ["a.jsonl"], ["bad.jsonl"], ["z.jsonl"]]
    assert follower.totals == Totals(batches=2, files=2, rows=20, rejected=2, failed=1)
    ledger = [json.loads(line) for line in (place / "out" / "taken.jsonl").read_text().splitlines()]
    assert [line.get("problem") for line in ledger] == [None, "the reviews have no column text", None]
    for words in (
        "waiting: MLflow cannot be used",
        "one by one: 3 files",
        "bad.jsonl: the reviews have no column text",
    ):
        assert words in follower.said.getvalue()


def test_a_batch_whose_run_fails_after_its_predictions_are_there_is_done(place: Path) -> None:
    write(place, "bad.jsonl", "z.jsonl")
    ended = threading.Event()
    follower = Scripted(place, ended)
    follower.calls.append([])  # the registry answers
    finish(Batch(place / "out" / "batch-000001", ()))
    follower.settings = follower.settings.model_copy(
        update={"follow": follower.settings.follow.model_copy(update={"idle_seconds": 0.05})}
    )
    follower.work(ended)
    assert follower.calls == [[], ["bad.jsonl", "z.jsonl"]]
    assert follower.totals.failed == 0
    assert after_two_looks(opened(place)) is None


def test_a_second_ctrl_c_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with ending(Console(file=io.StringIO())) as ended:
        signal.raise_signal(signal.SIGINT)
        assert ended.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_only_a_folder_of_this_machine_is_followed_and_only_into_a_folder_of_its_own(place: Path) -> None:
    def settings(*inputs: Path | str) -> Settings:
        return for_scoring(load_settings(), [str(one) for one in inputs], None)

    write(place, "a.jsonl")
    assert one_folder(settings(place / "in")) == place / "in"
    for wrong in ((place / "in" / "a.jsonl",), (place / "in", place / "out"), ("s3://bucket/x",), (place / "none",)):
        with pytest.raises(InputError, match="one folder of this machine"):
            one_folder(settings(*wrong))
    given = settings(place / "in")
    check_out(place / "out", given)
    check_out(place / "new", given)
    with pytest.raises(InputError, match="is within the input"):
        check_out(place / "in" / "out", given)
    (place / "out" / "batch-000001.json.draft").write_text("[")  # of a killed one
    check_out(place / "out", given)
    (place / "out" / "mine.txt").write_text("")
    with pytest.raises(InputError, match="is not of raymill score --follow"):
        check_out(place / "out", given)
    (place / "out" / "batch-000001.json").write_text("not ours")
    check_out(place / "out", given)
    with pytest.raises(InputError, match=r"batch-000001.json: this is no list of a batch"):
        opened(place).next()


def faulty(place: Path, error: Exception, what: str, monkeypatch: pytest.MonkeyPatch) -> Follower:
    """A follower at whose batch this function of `follow` raises an error."""

    def fail(*_: object) -> None:
        raise error

    for name in ("fetch", "left_out", "find_files"):
        monkeypatch.setattr(follow, name, fail if name == what else lambda *_: None)
    settings = for_scoring(load_settings(), [str(place / "in")], None)
    return Follower(settings, opened(place), "champion", Console(file=io.StringIO()))


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("fetch", InputError("a package of format 2, not 1")),
        ("left_out", InputError("the list of users to forget cannot be read")),
        ("find_files", ChunkFailed("OSError: no space is left")),
    ],
)
def test_a_fault_of_the_model_or_the_machine_is_no_files(
    place: Path, what: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(place, "a.jsonl")
    follower = faulty(place, error, what, monkeypatch)
    with pytest.raises(RunError, match=str(error)):
        follower.work(threading.Event())
    assert not (place / "out" / "taken.jsonl").exists()
    assert names(begun(opened(place))) == ["a.jsonl"]


def test_a_file_that_may_not_be_read_is_told_once_and_scored_later(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(place, "a.jsonl", "z.jsonl")
    ended = threading.Event()
    follower = Scripted(place, ended)
    follower.calls.append([])  # the registry answers
    follower.last = "a.jsonl"
    digest, tries = stream_folder.file_sha256, list[Path]()

    def refused(path: Path) -> str:
        if path.name == "a.jsonl" and len(tries) < 3:
            tries.append(path)
            raise PermissionError(13, "Permission denied")
        return digest(path)

    monkeypatch.setattr(stream_folder, "file_sha256", refused)
    follower.work(ended)
    assert follower.calls == [[], ["z.jsonl"], ["a.jsonl"]]
    assert follower.said.getvalue().count("a.jsonl: permission denied") == 1

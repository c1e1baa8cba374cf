"""What a user sees of a long stage while it runs, and that watching a stage never harms it."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel
from rich.console import Console

from flows.cli.console import ConsoleView
from flows.run.progress import (
    Artifacts,
    Lines,
    LogView,
    Pace,
    Speed,
    Throttle,
    artifact_key,
    clock,
    description,
    line,
    quantity,
)
from flows.run.record import StageRow
from tasks.core.progress import Progress, Reporter
from tasks.core.snapshots import SnapshotWriter
from tasks.core.stage import run_stage, stage
from tasks.core.storage.store import SnapshotStore


def at(seconds: float, done: int, total: int = 40_000, *, resumed: bool = False, **amounts: int) -> Progress:
    return Progress("tokenize", done, total, "rows", amounts, seconds, resumed)


class Config(BaseModel):
    pass


class TestReporting:
    def test_a_receiver_learns_what_the_stage_said_and_the_seconds_since_it_began(self) -> None:
        times, heard = iter([100.0, 101.5, 104.0]), list[Progress]()
        reporter = Reporter("tokenize", heard.append, lambda: next(times))
        reporter.report(5, 10, "rows", {"tokens": 70}, resumed=False)
        reporter.report(10, 10, "rows", {"tokens": 130}, resumed=True)
        assert heard == [at(1.5, 5, 10, tokens=70), at(4.0, 10, 10, resumed=True, tokens=130)]

    def test_a_receiver_that_fails_is_logged_once_and_the_stage_is_made(
        self, store: SnapshotStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        @stage(version=1, config=Config)
        def counted(config: Config, out: SnapshotWriter) -> None:
            for i in range(3):
                out.progress(i + 1, 3, words=i)
            out.write_bytes("x.bin", b"x")

        def fail(_: Progress) -> None:
            raise RuntimeError("no terminal")

        with caplog.at_level(logging.WARNING):
            done = run_stage(counted, [], Config(), store, validate=lambda *_: {}, progress=fail)
        assert done.snapshot.path("x.bin").read_bytes() == b"x"
        assert [r.message for r in caplog.records] == ["counted: its progress cannot be shown"]

    def test_a_stage_that_is_run_by_nobody_who_listens_may_say_it_too(self, tmp_path: Path) -> None:
        SnapshotStore(tmp_path).open_attempt("toy", "key").progress(1, 2, unit="files")

    def test_a_reused_stage_says_nothing_and_one_that_took_parts_over_says_so(self, store: SnapshotStore) -> None:
        heard: list[Progress] = []

        @stage(version=1, config=Config)
        def carried(config: Config, out: SnapshotWriter) -> None:
            out.note(parts=2, parts_taken_over=1)
            out.progress(1, 2, unit="files")
            out.write_bytes("x.bin", b"x")

        for _ in range(2):
            run_stage(carried, [], Config(), store, validate=lambda *_: {}, progress=heard.append)
        assert [(p.done, p.unit, p.resumed) for p in heard] == [(1, "files", True)]

    def test_nothing_to_do_is_all_done(self) -> None:
        assert at(1, 0, 0).fraction == 1.0
        assert at(1, 50, 40).fraction == 1.0


class TestThrottle:
    def test_of_a_thousand_reports_a_few_a_second_and_the_end_pass(self) -> None:
        throttle = Throttle(0.25)
        passed = [i for i in range(1025) if throttle.passes(at(i / 1024, i, 1024))]
        assert passed == [0, 256, 512, 768, 1024]
        throttle = Throttle(0.2)
        assert [throttle.passes(at(s, d, 10)) for s, d in ((0, 1), (0.1, 9), (0.15, 10))] == [True, False, True]

    def test_the_end_passes_once(self) -> None:
        throttle = Throttle(2)
        assert [throttle.passes(at(5 + i / 10, 10, 10)) for i in range(30)].count(True) == 2

    def test_nothing_passes_before_the_first_second_wanted_not_even_the_end(self) -> None:
        throttle = Throttle(2, first_s=2)
        assert [throttle.passes(at(s, 10, 10)) for s in (0.5, 1.9)] == [False, False]
        assert throttle.passes(at(2.1, 10, 10))


class TestPace:
    def test_the_speed_is_of_the_time_so_far_at_first(self) -> None:
        speed = Pace().speed(at(4, 10_000, tokens=2_000_000))
        assert speed == Speed({"rows": 2_500, "tokens": 500_000}, left_s=12)

    def test_a_stage_that_got_slower_shows_its_present_speed(self) -> None:
        pace = Pace()
        fast = [pace.speed(at(s, 200 * s)) for s in range(1, 101)][-1]
        slow = [pace.speed(at(100 + s, 20_000 + 50 * s)) for s in range(1, 101)][-1]
        assert fast.rates["rows"] == pytest.approx(200)
        assert slow.rates["rows"] == pytest.approx(50)
        assert slow.left_s == pytest.approx(15_000 / 50)

    def test_parts_that_come_back_in_pairs_give_a_steady_speed(self) -> None:
        pace = Pace()
        times = [t for pair in range(1, 21) for t in (60.0 * pair, 60.0 * pair + 0.1)]
        rates = [pace.speed(at(t, 10 * (i + 1))).rates["rows"] for i, t in enumerate(times)]
        assert all(0.15 < rate < 0.51 for rate in rates)  # 20 rows a minute
        assert rates[-1] == pytest.approx(20 / 60, rel=0.05)

    def test_at_the_end_the_speed_is_of_the_whole_time(self) -> None:
        pace = Pace()
        for s in range(1, 101):
            pace.speed(at(s, s, 40_000))
        assert pace.speed(at(200, 40_000)) == Speed({"rows": 200}, left_s=None)

    @pytest.mark.parametrize("progress", [at(9, 10_000, resumed=True), at(0.5, 10_000), at(0, 0)])
    def test_no_speed_where_it_would_mislead(self, progress: Progress) -> None:
        assert Pace().speed(progress) == Speed()

    def test_nothing_done_yet_leaves_the_time_left_open(self) -> None:
        assert Pace().speed(at(9, 0)) == Speed({"rows": 0}, left_s=None)


class TestWords:
    def test_a_line_has_percent_rows_tokens_rate_and_time_left(self) -> None:
        speed = Speed({"rows": 7_000, "tokens": 1_940_000}, 3.9)
        said = line(at(1.6, 12_400, tokens=3_100_000), speed)
        assert said == ("tokenize          31%  12,400 of 40,000 rows  3.1 M tokens  1.9 M tokens/s  0:04 left")

    def test_without_amounts_the_rate_is_of_the_units_and_without_speed_there_is_none(self) -> None:
        assert line(at(2, 20_000), Speed({"rows": 10_000}, 2)).endswith(
            "20,000 of 40,000 rows  10,000 rows/s  0:02 left"
        )
        assert line(at(2, 20_000, tokens=5), Speed()).endswith("50%  20,000 of 40,000 rows  5 tokens")

    def test_measures_of_the_moment_stay_longer_than_amounts(self) -> None:
        progress = replace(at(2, 20_000, tokens=5_000_000), measures={"loss": 0.41234, "MFU": 0.3})
        speed = Speed({"rows": 10_000, "tokens": 2_000_000}, 2)
        assert "5.0 M tokens  loss 0.412  MFU 0.3  2.0 M tokens/s  0:02 left" in line(progress, speed)
        assert line(progress, speed, 70).endswith("50%  loss 0.412  MFU 0.3  2.0 M tokens/s  0:02 left")
        assert "5.0 M tokens, loss 0.412, MFU 0.3 in 0:02" in description(progress, speed)

    def test_only_what_is_done_is_100_percent(self) -> None:
        assert " 99%" in line(at(2, 39_999), Speed())
        assert line(at(2, 40_000), Speed()).endswith("100%  40,000 rows")

    @pytest.mark.parametrize("width", range(10, 100, 5))
    def test_a_line_fits_the_terminal_and_gives_up_the_time_left_last(self, width: int) -> None:
        said = line(at(1.6, 12_400, tokens=3_100_000), Speed({"rows": 7_000, "tokens": 1_940_000}, 3.9), width)
        assert len(said) <= width
        assert ("0:04 left" in said) == (width >= 33)

    def test_the_artifacts_text_has_every_rate(self) -> None:
        progress = at(12, 12_400, tokens=3_100_000)
        said = description(progress, Speed({"rows": 1_033, "tokens": 258_333}, 26.7))
        assert said == "12,400 of 40,000 rows, 3.1 M tokens in 0:12; 1,030 rows/s, 258,000 tokens/s; 0:27 left"

    def test_quantities(self) -> None:
        numbers = (0, 0.254, 7.53, 9.6, 999, 12_400, 999_999, 999_999.7, 3_149_999, 999_960_000, 1_200_000_000_000)
        said = [quantity(n) for n in numbers]
        assert said == ["0", "0.25", "7.5", "10", "999", "12,400", "999,999", "1.0 M", "3.1 M", "1.0 B", "1,200.0 B"]

    def test_times(self) -> None:
        assert [clock(s) for s in (0.4, 3.6, 59.7, 750, 3_723)] == ["0:00", "0:04", "1:00", "12:30", "1:02:03"]

    def test_keys_are_what_prefect_takes(self) -> None:
        assert artifact_key("Count_Words 2") == "count-words-2"


def row(name: str) -> StageRow:
    return StageRow(name, rows=40_000, wall_s=12.3)


class TestConsole:
    def test_a_terminal_shows_a_line_for_each_stage_at_work(self) -> None:
        screen = io.StringIO()
        view = ConsoleView(Console(file=screen, force_terminal=True, width=100, _environ={"TERM": "xterm"}))
        for name in ("count-words", "tokenize", "train"):
            view.started(name)
        view.progressed(Progress("count-words", 1, 4, "files", {}, 2.0))
        view.progressed(at(1.6, 12_400, tokens=3_100_000))
        view.ended(row("describe"))
        shown = screen.getvalue()
        assert "count-words       25%  1 of 4 files  0.5 files/s  0:06 left\n" in shown.replace("\r", "")
        assert "\n  tokenize          31%  12,400 of 40,000 rows" in shown.replace("\r", "")
        assert "\n  train …" in shown.replace("\r", "")
        for name in ("count-words", "tokenize", "train"):
            view.ended(row(name))
        assert screen.getvalue().count("✓") == 4

    def test_a_stage_tried_again_starts_from_nothing(self) -> None:
        lines = Lines(0.2)
        assert lines.next(at(50, 30_000)) is not None
        assert lines.next(at(1, 10)) is None
        lines.forget("tokenize")
        assert lines.next(at(1, 10)) is not None

    def test_a_file_gets_a_plain_line_every_ten_seconds(self) -> None:
        file = io.StringIO()
        view = ConsoleView(Console(file=file, width=60))
        view.started("tokenize")
        for tenth in range(1, 401):
            view.progressed(at(tenth / 10, 100 * tenth, tokens=20_000 * tenth))
        view.ended(row("tokenize"))
        said = file.getvalue().splitlines()
        assert [text.split()[1] for text in said] == ["25%", "50%", "75%", "100%", "tokenize"]
        assert said[1] == "tokenize          50%  20,000 of 40,000 rows  4.0 M tokens  200,000 tokens/s  0:20 left"
        assert "\x1b" not in file.getvalue()

    def test_a_short_stage_says_nothing_in_a_file(self) -> None:
        file = io.StringIO()
        view = ConsoleView(Console(file=file))
        view.started("tokenize")
        view.progressed(at(9, 40_000))
        assert file.getvalue() == ""


def test_the_log_of_a_worker_gets_a_line_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.run.progress._prefect_log", lambda: logging.getLogger("log"))
    records: list[str] = []
    monkeypatch.setattr(logging.getLogger("log"), "info", lambda text, *given: records.append(text % given))
    view = LogView()
    view.started("tokenize")
    for second in range(1, 41):
        view.progressed(at(second, 1_000 * second))
    assert [text.split()[1] for text in records] == ["25%", "50%", "75%", "100%"]
    assert records[0].endswith("10,000 of 40,000 rows  1,000 rows/s  0:30 left")


class Server:
    """Keeps what was sent to it; away while `away`. `answered` is released once for each request."""

    def __init__(self, wait: Callable[[], Any] = lambda: None) -> None:
        self.sent: list[tuple[str, float]] = []
        self.wait, self.away = wait, False
        self.asked, self.answered = threading.Event(), threading.Semaphore(0)

    def create(self, key: str, percent: float, text: str) -> UUID:
        self._take(f"create {key}", percent)
        return uuid4()

    def update(self, artifact: UUID, percent: float, text: str) -> None:
        self._take("update", percent)

    def _take(self, what: str, percent: float) -> None:
        self.asked.set()
        self.wait()
        try:
            if self.away:
                raise ConnectionError("no route")
            self.sent.append((what, percent))
        finally:
            self.answered.release()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine must not decide whether all is sent when a run ends."""
    monkeypatch.setattr("flows.run.progress.FINISH_S", 60.0)


@pytest.mark.usefixtures("patient")
class TestArtifacts:
    def test_one_artifact_a_stage_is_made_and_then_updated(self) -> None:
        server = Server()
        artifacts = Artifacts(server.create, server.update, iter([0.0, 20.0]).__next__)
        with artifacts.of("near-duplicates") as receive:
            for seconds, done in ((1.0, 4_000), (2.5, 10_000), (3.0, 12_000), (4.5, 20_000), (4.6, 40_000)):
                receive(at(seconds, done))
                artifacts.finish()
        assert server.sent == [("create near-duplicates", 25.0), ("update", 50.0), ("update", 100.0)]

    def test_a_stage_that_ends_within_two_seconds_leaves_none(self) -> None:
        server = Server()
        artifacts = Artifacts(server.create, server.update, iter([0.0, 1.9]).__next__)
        with artifacts.of("tokenize") as receive:
            receive(at(1.8, 40_000))
        artifacts.finish()
        assert server.sent == []

    def test_what_was_said_last_is_sent_though_it_came_too_soon(self) -> None:
        server = Server()
        artifacts = Artifacts(server.create, server.update, iter([0.0, 30.0]).__next__)

        def failing_stage() -> None:
            with artifacts.of("tokenize") as receive:
                receive(at(1.8, 30_000))
                raise KeyError("a failed stage")

        with pytest.raises(KeyError):
            failing_stage()
        artifacts.finish()
        assert server.sent == [("create tokenize", 75.0)]

    def test_a_stage_tried_again_goes_on_with_its_artifact(self) -> None:
        server = Server()
        artifacts = Artifacts(server.create, server.update)
        for _ in range(2):
            with artifacts.of("tokenize") as receive:
                receive(at(9, 40_000))
            artifacts.finish()
        assert server.sent == [("create tokenize", 100.0), ("update", 100.0)]

    def test_a_server_that_hangs_holds_nobody_up_and_then_gets_the_latest(self) -> None:
        answers = threading.Event()
        server = Server(lambda: answers.wait(60))
        artifacts = Artifacts(server.create, server.update)
        with artifacts.of("tokenize") as receive:
            receive(at(2, 0))
            assert server.asked.wait(60)
            for seconds in range(4, 42, 2):
                receive(at(seconds, 1_000 * (seconds - 2)))
        answers.set()
        artifacts.finish()
        assert server.sent == [("create tokenize", 0.0), ("update", 95.0)]

    def test_a_server_that_is_away_is_logged_once_and_used_again_when_it_is_back(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Prefect's own logger is as another test of this process may have left it.
        monkeypatch.setattr("prefect.logging.get_logger", lambda name: logging.getLogger(f"of-this-test.{name}"))
        server = Server()
        server.away = True
        artifacts = Artifacts(server.create, server.update)
        with caplog.at_level(logging.WARNING, logger="of-this-test"), artifacts.of("tokenize") as receive:
            for seconds in (3, 6, 9):
                receive(at(seconds, 1_000))
                assert server.answered.acquire(timeout=60)
            server.away = False
            receive(at(12, 40_000))
            assert server.answered.acquire(timeout=60)
        assert server.sent == [("create tokenize", 100.0)]
        assert [r.getMessage() for r in caplog.records] == ["progress does not reach Prefect: no route"]

    def test_the_end_of_a_run_does_not_wait_for_a_server_that_was_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("flows.run.progress.FINISH_S", None)  # for ever
        server, stuck = Server(), threading.Event()
        server.away = True
        artifacts = Artifacts(server.create, server.update)
        with artifacts.of("tokenize") as receive:
            receive(at(3, 1_000))
            assert server.answered.acquire(timeout=60)
            artifacts.finish()
            server.wait = stuck.wait  # the next request hangs until the test is over
            receive(at(6, 2_000))
        end = threading.Thread(target=artifacts.finish, daemon=True)
        end.start()
        end.join(60)
        assert not end.is_alive()
        stuck.set()

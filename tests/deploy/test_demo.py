"""The demo as a process, beginning to end and cut short; and its screen."""

import io
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.console import Console

from deploy.demo import RUNNING, Demo, DemoOptions, DemoView, generated_clicks
from deploy.demo_screen import screen, show_end
from deploy.observer import Scoreboard
from deploy.settings import Settings
from stream.records import AnsweredClick, Recommendation
from stream.settings import WorkerSettings
from tests.deploy.command_line import DEADLINE_S, Running, last_json, processes_of, running
from trainer.settings import TrainerSettings

ANSWERED = "popularity answers"


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Running]]:
    """Three demos side by side: one that comes to its end, and two that will not."""
    folder = tmp_path_factory.mktemp("demos")
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(running(folder / name, "demo", "--json", "--seconds", seconds, PARTITIONS="2"))
            for name, seconds in (("whole", "4"), ("interrupted", "60"), ("killed", "60"))
        }


def left_behind(demo: Running) -> tuple[list[int], list[str]]:
    """Return the processes and the folders that are left of a demo."""
    return processes_of(demo.folder), [entry.name for entry in demo.folder.iterdir() if entry.is_dir()]


def test_a_killed_demo_leaves_neither_process_nor_folder_behind(demos: dict[str, Running]) -> None:
    demo = demos["killed"]
    demo.wait_until(lambda: {"worker", "trainer"} <= children_of(demo), "worker and trainer are started")

    assert demo.end(signal.SIGKILL) == -signal.SIGKILL
    deadline_s = time.monotonic() + DEADLINE_S
    while left_behind(demo) != ([], []):
        assert time.monotonic() < deadline_s, left_behind(demo)
        time.sleep(0.05)


def children_of(demo: Running) -> set[str]:
    """Return the names of a demo's processes whose command is guarded by now."""
    lines = [command_line(pid) for pid in processes_of(demo.folder)]
    guarded = {int(line[-1]) for line in lines if line[:2] == ["/bin/sh", "-c"] and line[-1].isdecimal()}
    return {command_line(pid)[-1] for pid in guarded}


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
    except OSError:  # it has ended
        return [""]


def test_a_demo_answers_every_click_and_leaves_nothing_behind(demos: dict[str, Running]) -> None:
    demo = demos["whole"]
    assert demo.end() == 0, demo.stderr
    found = last_json(demo.stdout)

    assert found["clicks"] == found["answers"] == 4_000
    assert (found["copies"], found["dead_letters"]) == (0, 0)
    assert 0 < found["latency_ms_p50"] <= found["latency_ms_p99"]
    assert 0.5 < found["recall_at_20_best_possible"] < 1
    assert [version["version"] for version in found["versions"]] == ["popularity"]
    assert len(demo.stdout.splitlines()) == 1
    assert left_behind(demo) == ([], [])


def test_an_interrupted_demo_ends_with_status_130_and_leaves_nothing_behind(demos: dict[str, Running]) -> None:
    demo = demos["interrupted"]
    demo.wait_until(lambda: ANSWERED in demo.stderr, "clicks are answered")
    assert len(left_behind(demo)[0]) > 3

    assert demo.end(signal.SIGINT) == 130
    assert demo.stderr.splitlines()[-1].endswith(" answers"), "of popularity, or of a version that was quick: no error"
    assert demo.stdout == ""
    assert left_behind(demo) == ([], [])


def test_a_demo_on_a_broker_in_use_has_topics_group_and_registry_of_its_own(tmp_path: Path) -> None:
    given = Settings.model_construct(worker=WorkerSettings(top_k=7), trainer=TrainerSettings(seed=3))
    table, _ = generated_clicks(10, seed=0)
    own = Demo(DemoOptions(RUNNING, table, 1.0, None), given)._own_settings(tmp_path)

    names = {*own.topics.model_dump().values(), own.worker.app_id}
    assert len(names) == 5
    assert all(name.startswith("nextclick-demo-") for name in names)
    assert own.registry == str(tmp_path / "registry")
    assert own.worker.data_dir == tmp_path / "worker"
    assert (own.worker.top_k, own.trainer.seed, own.partitions) == (7, 3, 8)
    own.topic_plan()


def looked_at() -> DemoView:
    """Return a look at two versions, a hit and a click on an item whose name looks like markup."""
    board = Scoreboard(idle_ms=1_000)
    for offset, (version, clicked) in enumerate((("popularity", "a"), ("v1", "[/b]"), ("v1", "c"))):
        click = AnsweredClick(partition=0, offset=offset, item_id=clicked, timestamp=0)
        board.click_appended(0, offset, 10_000)
        board.answer_arrived(Recommendation("s", ["[/b]", "z" * 90], [2.0, 1.0], version, click, 0), 10.0 + offset)
    return DemoView(4.0, 3, 4, board.view(12.0, dead_letters=1), best_recall=0.875)


@pytest.fixture
def console() -> Console:
    return Console(width=80, record=True, file=io.StringIO())


def test_the_screen_fits_eighty_columns_and_shows_what_was_seen(console: Console) -> None:
    console.print(screen(looked_at()))
    text = console.export_text()

    assert max(map(len, text.splitlines())) <= 80
    for part in ("3 of 4", "p50 1000.0 ms", "serving  v1", "0.500", "0.875", "a → [/b] → c"):
        assert part in text


def test_the_end_says_what_happened_and_what_to_do_next(console: Console) -> None:
    show_end(console, looked_at())
    text = " ".join(console.export_text().split())

    assert "3 answers to 3 clicks, 1 dead letters" in text
    assert "longest gap between answers 1000 ms" in text
    assert "nextclick worker --broker HOST:PORT" in text
    assert '{"session_id": "s1", "item_id": "i1"}' in text

"""What every command has in common: help, one-line errors, exit statuses, JSON."""

import contextlib
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import click.testing
import pytest

from deploy.cli import COMMANDS, NextclickGroup, main
from deploy.embedded_kafka import EmbeddedKafka
from deploy.topics import TopicPlan
from tests.conftest import REPOSITORY
from tests.deploy.command_line import Running, last_json, nextclick, running


def paths_of(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the path of a command and of all below it."""
    yield " ".join(path)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from paths_of(found, (*path, name))


COMMAND_PATHS = list(paths_of(main))
GROUPS = {path.split()[0] for path in COMMAND_PATHS if " " in path}
NOBODY = "127.0.0.1:1"
CLICKS = "session_id,item_id,timestamp\ns,i1,1000\ns,i2,1001\nt,i1,1002\n"


def example_of(path: str) -> list[str]:
    """Return the arguments of the example in a command's help."""
    help_text = " ".join(nextclick(*path.split(), "--help").output.split())
    words = shlex.split(help_text.rpartition("Example: ")[2].partition(". Exit status")[0])
    return words[words.index("nextclick") + 1 :] if words.count("nextclick") == 1 else words[:0]


@pytest.fixture
def click_file(tmp_path: Path) -> Path:
    path = tmp_path / "clicks.csv"
    path.write_text(CLICKS)
    return path


@pytest.mark.parametrize("path", COMMAND_PATHS)
def test_help_says_what_a_command_does_and_shows_an_example_of_it(path: str) -> None:
    result = nextclick(*path.split(), "--help")
    text = " ".join(result.output.split())

    assert result.exit_code == 0
    assert f"Usage: nextclick {path}".strip() in text.replace("Usage: main", "Usage: nextclick")
    assert "Example: " in text
    assert f"nextclick {path}".strip() in text.rpartition("Example: ")[2]


@pytest.mark.parametrize("path", [path for path in COMMAND_PATHS if path not in {"", *GROUPS, "settings"}])
def test_the_example_in_the_help_is_one_that_the_command_accepts(path: str) -> None:
    command: click.Command = main
    arguments = example_of(path)
    assert arguments[: len(path.split())] == path.split()
    context = click.Context(main)
    for name in path.split():
        assert isinstance(command, click.Group)
        found = command.get_command(context, name)
        assert found is not None
        command = found

    command.make_context(path, arguments[len(path.split()) :])


def test_the_list_of_commands_imports_none_of_them() -> None:
    script = (
        "import sys; from deploy.cli import main; main(['--help'], standalone_mode=False);"
        " print(*{'torch', 'faust', 'aiokafka', 'pyarrow', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == ""
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []
    for name in COMMANDS:
        assert f"\n  {name}  " in done.stdout


def test_version_is_shown_installed_or_not() -> None:
    result = nextclick("--version")

    assert result.exit_code == 0
    assert result.output.startswith("nextclick")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("bogus", "No such command 'bogus'"),
        ("tail --bogus", "No such option: --bogus"),
        ("tail --count 0", "0 is not in the range"),
        ("tail --broker kafka", "--broker: expected HOST:PORT, several by commas, got 'kafka'"),
        ("replay", "Missing argument 'FILE'"),
        ("replay FILE --rate 0", "rate must be above 0, got 0.0"),
        ("replay FILE --speed nan", "speed must be above 0, got nan"),
        ("replay FILE --rate 1 --speed 1", "give rate or speed, not both"),
        ("broker --kind zookeeper", "'zookeeper' is not one of"),
        ("broker --port 9092", "--data-dir and --port need --kind kafka"),
        ("fit FILE --split days:x", "--split: expected leave-one-out, days:N, sessions:N or period:P, got 'days:x'"),
        ("evaluate FILE --k 5,x", "--k: expected numbers of at least 1, separated by commas, got '5,x'"),
        ("evaluate FILE --k 0", "--k: expected numbers of at least 1, separated by commas, got '0'"),
        ("demo --broker embeded", "expected HOST:PORT"),
        ("demo --seconds 0", "0.0 is not in the range"),
        ("models show v1 --registry bogus://here", "the registry 'bogus://here' cannot be opened"),
    ],
)
def test_wrong_usage_is_said_in_one_line_with_status_2(line: str, said: str, click_file: Path) -> None:
    arguments = [str(click_file) if word == "FILE" else word for word in line.split()]
    result = nextclick(*arguments)
    *usage, error = result.stderr.splitlines()

    assert result.exit_code == 2
    assert result.stdout == ""
    assert said in error
    assert error.startswith("Error: ")
    assert [text for text in usage if text and not text.startswith(("Usage: ", "Try "))] == []


FAILURES = {
    "replay no.parquet": "no.parquet: there is no such file; check the path",
    "replay no-suffix": "no-suffix: there is no such file; check the path",
    "fit no.csv": "no.csv: there is no such file; check the path",
    "evaluate no.csv": "no.csv: there is no such file; check the path",
    "demo --clicks no.csv": "no.csv: there is no such file; check the path",
    "replay FILE --item-column x": "expected a column 'x', found session_id, item_id, timestamp; name the right one",
    "replay FILE": "no answer from Kafka at 127.0.0.1:1 within 0.2 s",
    "tail": "no answer from Kafka at 127.0.0.1:1 within 0.2 s",
    "topics create": "no answer from Kafka at 127.0.0.1:1 within 0.2 s",
    "topics check": "no answer from Kafka at 127.0.0.1:1 within 0.2 s",
    "models list": "no answer from Kafka at 127.0.0.1:1 within 0.2 s",
    "models promote v1": "no answer from Kafka at 127.0.0.1:1 within 0.2 s",
    "models rollback": "no answer from Kafka at 127.0.0.1:1 within 0.2 s",
    "models show v1": "there is no version v1 at",
    "evaluate FILE": "holds no version; `nextclick fit` writes one",
    "evaluate FILE --version v1": "there is no version v1 at",
}


@pytest.mark.parametrize("line", FAILURES)
def test_a_failure_is_one_line_on_standard_error_with_status_1(line: str, click_file: Path, tmp_path: Path) -> None:
    arguments = [str(click_file) if word == "FILE" else word for word in line.split()]
    result = nextclick(
        *arguments, KAFKA__BOOTSTRAP_SERVERS=NOBODY, KAFKA__TIMEOUT_S="0.2", REGISTRY=tmp_path / "registry"
    )

    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("Error: ")
    assert FAILURES[line] in result.stderr


def test_a_demo_on_a_broker_that_does_not_answer_fails_as_plainly() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        result = nextclick("demo", "--seconds", "1", "--broker", NOBODY, KAFKA__TIMEOUT_S="0.2")
    finally:
        signal.signal(signal.SIGTERM, handler)
    note, error = result.stderr.splitlines()

    assert result.exit_code == 1
    assert note == "starting a worker and a trainer on a broker (127.0.0.1:1) …"
    assert error.startswith("Error: no answer from Kafka at 127.0.0.1:1 within 0.2 s")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tail", "there is no topic recommendations; make it with `nextclick topics create`"),
        ("replay FILE", "topic clicks does not exist: create it first (nextclick topics create)"),
        ("models list", "there is no topic models; make it with `nextclick topics create`"),
        ("topics check", "clicks: missing, planned partitions: 8"),
    ],
)
def test_a_missing_topic_is_named_with_the_command_that_makes_it(
    line: str, said: str, click_file: Path, embedded_kafka: EmbeddedKafka
) -> None:
    arguments = [str(click_file) if word == "FILE" else word for word in line.split()]
    result = nextclick(*arguments, KAFKA__BOOTSTRAP_SERVERS=embedded_kafka.bootstrap)

    assert result.exit_code == 1
    assert said in result.stderr.splitlines()[-1]
    assert "nextclick topics create" in result.stderr.splitlines()[-1]


def test_topics_that_differ_from_the_plan_are_all_named_and_in_the_json_too() -> None:
    with EmbeddedKafka(TopicPlan(partitions=2).partition_counts()) as broker:
        asked = {"KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap, "PARTITIONS": "4"}
        differing = nextclick("topics", "check", "--json", **asked)
        as_planned = nextclick("topics", "check", "--json", **asked | {"PARTITIONS": "2"})
        created = nextclick("topics", "create", "--json", **asked | {"PARTITIONS": "2"})

    assert differing.exit_code == 1
    assert last_json(differing.stdout)["differences"][0] == "clicks: 2 partitions, planned 4"
    assert "NEXTCLICK_PARTITIONS, NEXTCLICK_REPLICATION_FACTOR and" in differing.stderr.splitlines()[-1]
    assert as_planned.exit_code == 0
    assert last_json(as_planned.stdout) == {"as_planned": True, "differences": []}
    assert last_json(created.stdout) == {"created": []}


class FailingGroup(NextclickGroup):
    """Has one command, which raises what nobody foresaw."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        del ctx

        def fail() -> None:
            raise KeyError("row")

        return click.Command(cmd_name, callback=fail)


def test_an_unforeseen_error_is_one_line_too_and_the_debug_level_shows_where() -> None:
    runner = click.testing.CliRunner()
    quiet = runner.invoke(FailingGroup("nextclick"), ["any"], env={"NEXTCLICK_LOG_LEVEL": None})
    loud = runner.invoke(FailingGroup("nextclick"), ["any"], env={"NEXTCLICK_LOG_LEVEL": "DEBUG"})

    assert quiet.exit_code == 1
    assert quiet.stderr == "Error: unforeseen KeyError: 'row'; NEXTCLICK_LOG_LEVEL=DEBUG shows where\n"
    assert isinstance(loud.exception, KeyError)


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Running]]:
    """Commands whose exit status or signals matter, run side by side: each takes seconds to start."""
    folder = tmp_path_factory.mktemp("processes")
    with contextlib.ExitStack() as stack:
        plan = TopicPlan(partitions=2)
        broker = stack.enter_context(EmbeddedKafka(plan.partition_counts()))
        here = {"KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap, "PARTITIONS": "2", "REGISTRY": folder / "registry"}
        away = {"KAFKA__BOOTSTRAP_SERVERS": NOBODY, "KAFKA__TIMEOUT_S": "0.2"}
        lines: dict[str, tuple[list[str], dict[str, str | Path]]] = {
            "broker": (["broker", "--json"], {}),
            "worker, other partitions": (["worker"], here | {"PARTITIONS": "3"}),
            "worker, no broker": (["worker"], away | {"LOG_FORMAT": "console"}),
            "trainer, no broker": (["trainer", "--once"], away),
        }
        yield {
            name: stack.enter_context(
                running(folder / name.replace(", ", "-").replace(" ", "-"), *arguments, **settings)
            )
            for name, (arguments, settings) in lines.items()
        }


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("worker, other partitions", "clicks: 2 partitions, planned 3"),
        ("trainer, no broker", "no answer from Kafka at 127.0.0.1:1 within 0.2 s"),
    ],
)
def test_a_process_with_json_logs_ends_with_status_1_and_the_reason_in_its_last_line(
    name: str, said: str, processes: dict[str, Running]
) -> None:
    failed = processes[name]

    assert failed.end() == 1
    lines = failed.stderr.splitlines()
    assert said in last_json(lines[-1])["error"]
    assert len(lines) == 1
    assert failed.stdout == ""


def test_a_process_that_people_watch_ends_with_status_1_and_a_plain_line(processes: dict[str, Running]) -> None:
    failed = processes["worker, no broker"]

    assert failed.end() == 1
    assert failed.stderr.startswith("Error: no answer from Kafka at 127.0.0.1:1 within 0.2 s")
    assert len(failed.stderr.splitlines()) == 1
    assert failed.stdout == ""


def test_ctrl_c_is_the_end_of_a_broker_and_its_json_says_where_it_is(processes: dict[str, Running]) -> None:
    broker = processes["broker"]
    broker.wait_until(lambda: "\n" in broker.stdout, "the broker says where it is")
    bootstrap = last_json(broker.stdout)["bootstrap"]
    with socket.create_connection(bootstrap.split(":")):
        pass

    assert broker.end(signal.SIGINT) == 0
    assert broker.stderr == ""
    assert [entry.name for entry in broker.folder.iterdir() if entry.is_dir()] == []

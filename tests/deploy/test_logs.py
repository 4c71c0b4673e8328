import json
import logging
import subprocess
import sys

from deploy.logs import SAME_LINE_EVERY_S, OnceInAWhile
from tests.conftest import REPOSITORY


def record(name: str, message: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, __file__, 1, message, arguments, None)


def test_a_library_says_the_same_thing_once_in_a_while() -> None:
    now_s = [100.0]
    once = OnceInAWhile(clock=lambda: now_s[0])
    said = [once.filter(record("aiokafka.conn", "Unable to connect to %s", place)) for place in ("a", "b", "a")]
    now_s[0] += SAME_LINE_EVERY_S

    assert said == [True, False, False]
    assert once.filter(record("aiokafka.conn", "Unable to connect to %s", "a"))


def test_different_lines_and_different_loggers_are_all_heard() -> None:
    once = OnceInAWhile(clock=lambda: 0.0)

    assert once.filter(record("aiokafka.conn", "one"))
    assert once.filter(record("aiokafka.conn", "two"))
    assert once.filter(record("aiokafka.client", "one"))


def test_our_own_lines_are_never_held_back() -> None:
    once = OnceInAWhile(clock=lambda: 0.0)

    assert [once.filter(record("trainer.service", "round failed")) for _ in range(3)] == [True] * 3


def test_the_traceback_of_a_library_is_dropped_and_ours_is_kept() -> None:
    once = OnceInAWhile(clock=lambda: 0.0)
    records = [record("mode.services", "crashed"), record("trainer.service", "crashed")]
    for each in records:
        each.exc_info = (ValueError, ValueError("x"), None)
        once.filter(each)

    assert [each.exc_info is None for each in records] == [True, False]


def logged(log_format: str, body: str) -> tuple[int, list[str]]:
    """Run `body` in a process with these logs; return its exit status and its lines on standard error."""
    script = f"""
import logging
import structlog
from deploy.errors import SettingsError, TopicError
from deploy.logs import process_logs
log = structlog.get_logger()
with process_logs({log_format!r}, "INFO"):
{body}
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()


def test_json_lines_hold_our_fields_and_the_last_one_the_failure() -> None:
    status, lines = logged("json", '    log.info("batch", clicks=3)\n    raise TopicError("there is no topic clicks")')
    first, last = map(json.loads, lines)

    assert status == 1
    assert (first["event"], first["clicks"], first["level"]) == ("batch", 3, "info")
    assert (last["error"], last["level"]) == ("there is no topic clicks", "critical")
    assert "exception" not in last


def test_where_standard_error_is_no_terminal_lines_are_json_by_default_and_a_wrong_setting_is_wrong_usage() -> None:
    status, lines = logged("auto", '    raise SettingsError("NEXTCLICK_X is wrong")')

    assert status == 2
    assert [json.loads(line)["error"] for line in lines] == ["NEXTCLICK_X is wrong"]


def test_an_unforeseen_failure_keeps_its_traceback_inside_its_one_line() -> None:
    status, (line,) = logged("json", '    raise KeyError("row")')
    failure = json.loads(line)

    assert status == 1
    assert failure["error"] == "unforeseen KeyError: 'row'"
    assert "Traceback" in failure["exception"]


def test_logs_for_people_have_no_colours_in_a_file_and_leave_the_failure_to_the_command_line() -> None:
    status, lines = logged("console", '    log.info("batch", clicks=3)\n    raise KeyError("row")')

    assert status == 1
    assert "batch" in lines[0]
    assert "clicks=3" in lines[0]
    assert lines[-1] == "KeyError: 'row'"
    assert "\x1b" not in "".join(lines)


def test_libraries_say_warnings_and_the_services_of_faust_nothing() -> None:
    body = """
    logging.getLogger("aiokafka.consumer").info("fetching")
    logging.getLogger("aiokafka.consumer").warning("away")
    logging.getLogger("stream.app").info("[^--Answering]: Starting...")
    logging.getLogger("stream.app").error("[^--Answering]: Crashed")
"""
    _, lines = logged("json", body)

    assert [json.loads(line)["event"] for line in lines] == ["away"]

"""Log lines of every process: structlog's and the libraries' alike, as JSON or for a terminal, on standard error."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from deploy.failures import exit_status, is_foreseen, one_line

# Their INFO lines are many, and formatting the debug ones cost aiokafka 14 % of a worker.
LIBRARIES = ("aiokafka", "faust", "mode", "asyncio")
# Faust's services log under the module that defines them: here Faust says of ours that they start, stop and crash, with
# a traceback for every service that the crash went through. What crashed is logged by `process_logs`.
SILENT = ("stream.app", "stream.faust_seams")
SAME_LINE_EVERY_S = 30.0

log = structlog.get_logger()


class OnceInAWhile(logging.Filter):
    """Lets a library say the same thing only now and then: without Kafka, aiokafka writes eighty lines a second.

    What differs in its arguments only is the same thing. A library's tracebacks are dropped, as in `SILENT`.

    Args:
        clock: Seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said_s: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is to be written."""
        if record.name.split(".")[0] not in LIBRARIES:
            return True
        record.exc_info = record.exc_text = None
        said = (record.name, str(record.msg))
        now_s = self._clock()
        if now_s - self._said_s.get(said, float("-inf")) < SAME_LINE_EVERY_S:
            return False
        self._said_s[said] = now_s
        return True


@contextmanager
def process_logs(log_format: str, level: str) -> Iterator[None]:
    """Configure the logs of a process that runs on; where they are JSON, the failure that ends it is a line of them.

    Args:
        log_format: See `configure_logs`.
        level: See `configure_logs`.

    Raises:
        SystemExit: After that line; where logs are for people, the failure itself is raised on.
    """
    as_json = configure_logs(log_format, level)
    try:
        yield
    except Exception as error:
        if not as_json:
            raise
        log.critical("failed", error=one_line(error), exc_info=None if is_foreseen(error) else error)
        raise SystemExit(exit_status(error)) from error


def configure_logs(log_format: str, level: str) -> bool:
    """Send every log line through one renderer.

    Args:
        log_format: `json`, `console`, or `auto` for console on a terminal and JSON elsewhere.
        level: Least severe level that is logged.

    Returns:
        Whether lines are JSON.
    """
    as_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(OnceInAWhile())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return as_json

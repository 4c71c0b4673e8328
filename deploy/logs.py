"""Log lines of every process: structlog's and the libraries' alike, as JSON or for a terminal, on standard error."""

import logging
import sys

import structlog

# Their INFO lines are many, and formatting the debug ones cost aiokafka 14 % of a worker.
QUIET = ("aiokafka", "faust", "mode", "stream.faust_seams", "asyncio")


def configure_logs(log_format: str, level: str) -> None:
    """Send every log line through one renderer.

    Args:
        log_format: `json`, `console`, or `auto` for console on a terminal and JSON elsewhere.
        level: Least severe level that is logged.
    """
    as_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)

"""Runs one worker until it is stopped: `python -m tests.stream.worker_process OPTIONS`, which are JSON.

OPTIONS: `bootstrap`, `registry` (its URL), `partitions`, `log` and `metrics` (files written to), `settings` (of the
worker), `stop_margin_s`.
"""

import json
import logging
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from model.registry import Registry
from stream.app import build_worker, run_worker
from stream.metrics import WorkerMetrics
from stream.settings import Topics, WorkerSettings


def main(options_json: str) -> None:
    options = json.loads(options_json)
    logging.basicConfig(filename=options["log"], level=logging.INFO)
    logging.getLogger("aiokafka").setLevel(logging.WARNING)
    scrape = CollectorRegistry()
    settings = WorkerSettings.model_validate(options["settings"])
    app, _ = build_worker(
        settings=settings,
        topics=Topics(),
        partitions=options["partitions"],
        kafka_options={"bootstrap_servers": options["bootstrap"]},
        registry=Registry(options["registry"]),
        metrics=WorkerMetrics(scrape),
    )
    try:
        run_worker(app, settings, stop_margin_s=options["stop_margin_s"])
    finally:
        Path(options["metrics"]).write_bytes(generate_latest(scrape))


if __name__ == "__main__":
    main(sys.argv[1])

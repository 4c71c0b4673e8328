"""Fixtures of the stream tests."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import faust
import pytest
from prometheus_client import CollectorRegistry

from model.registry import Registry
from stream.app import TABLE, build_worker
from stream.metrics import WorkerMetrics
from stream.settings import Topics, WorkerSettings
from stream.state_table import StateTable


@pytest.fixture
def app(tmp_path: Path) -> Iterator[faust.App]:
    """A worker's Faust app on two partitions, as `build_worker` makes it, never started."""
    policy = asyncio.get_event_loop_policy()
    app, _ = build_worker(
        settings=WorkerSettings(data_dir=tmp_path / "worker"),
        topics=Topics(),
        partitions=2,
        kafka_options={"bootstrap_servers": "127.0.0.1:1"},
        registry=Registry(str(tmp_path / "registry")),
        metrics=WorkerMetrics(CollectorRegistry()),
    )
    loop = asyncio.get_event_loop()
    yield app
    loop.close()
    asyncio.set_event_loop_policy(policy)


@pytest.fixture
def faust_table(app: faust.App) -> Iterator[faust.Table]:
    """The sessions table of `app`; its RocksDB databases open when they are first asked for."""
    table = app.tables[TABLE]
    yield table
    table.data._dbs.clear()


@pytest.fixture
def table(faust_table: faust.Table) -> StateTable:
    """The sessions of `faust_table`."""
    return StateTable(faust_table)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where `registry` is, on the disk."""
    return tmp_path / "registry"


@pytest.fixture
def registry(folder: Path) -> Registry:
    """A registry without versions."""
    return Registry(str(folder))

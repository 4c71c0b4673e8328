"""Fixtures that every test may use."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

pytest_plugins = ["tests.brokers"]

REPOSITORY = Path(__file__).resolve().parents[1]

# How long an example takes says more about the machine that runs it than about the code.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Networks this small only lose by sharing their work between threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def data_file() -> Callable[[str], Path]:
    """Finds a file of public click data by name; skips the test where it is absent."""

    def find(name: str) -> Path:
        folder = Path(os.environ.get("NEXTCLICK_TEST_DATA", REPOSITORY / "../shared/data"))
        if not (folder / name).is_file():
            pytest.skip(f"{name} is not in {folder}; set NEXTCLICK_TEST_DATA to the folder that holds it")
        return folder / name

    return find

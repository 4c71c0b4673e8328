"""What every test of the trainer needs."""

from collections.abc import Iterator

import pytest
import torch

from tests.trainer.broker_topics import BrokerTopics, make_topics


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Networks this small only lose by sharing their work between threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["embedded", pytest.param("real", marks=pytest.mark.kafka)])
def topics(request: pytest.FixtureRequest) -> BrokerTopics:
    """Topics of the test's own, on the embedded broker and on a real one."""
    return make_topics(request.getfixturevalue(f"{request.param}_kafka"))

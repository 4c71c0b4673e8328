"""What every test of the trainer needs."""

from collections.abc import Iterator

import pytest
import torch

from tests.trainer.broker_topics import BrokerTopics, make_topics


@pytest.fixture(params=["embedded", pytest.param("real", marks=pytest.mark.kafka)])
def topics(request: pytest.FixtureRequest) -> BrokerTopics:
    """Topics of the test's own, on the embedded broker and on a real one."""
    return make_topics(request.getfixturevalue(f"{request.param}_kafka"))


@pytest.fixture
def torch_as_it_was() -> Iterator[None]:
    """Undo what a test set for the whole process."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)

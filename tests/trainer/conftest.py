"""What every test of the trainer needs."""

import pytest

from tests.trainer.broker_topics import BrokerTopics, make_topics


@pytest.fixture(params=["embedded", pytest.param("real", marks=pytest.mark.kafka)])
def topics(request: pytest.FixtureRequest) -> BrokerTopics:
    """Topics of the test's own, on the embedded broker and on a real one."""
    return make_topics(request.getfixturevalue(f"{request.param}_kafka"))

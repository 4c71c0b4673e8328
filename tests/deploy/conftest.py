"""A broker that the tests of the commands share, with a topic of each test's own."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from deploy.embedded_kafka import EmbeddedKafka

SITES = 40


@dataclass(frozen=True)
class Site:
    """Where a test's command works: `settings` make it use the test's own topic for whatever it uses one for."""

    bootstrap: str
    topic: str

    @property
    def settings(self) -> dict[str, str]:
        uses = ("CLICKS", "RECOMMENDATIONS", "MODELS")
        return {"KAFKA__BOOTSTRAP_SERVERS": self.bootstrap} | {f"TOPICS__{use}": self.topic for use in uses}


@pytest.fixture(scope="session")
def sites() -> Iterator[Iterator[Site]]:
    """Sites that nobody has used, on one embedded broker: an idle one takes a second for each further topic."""
    topics = {f"topic-{number}": 2 for number in range(SITES)}
    with EmbeddedKafka(topics) as broker:
        yield (Site(broker.bootstrap, topic) for topic in topics)


@pytest.fixture
def site(sites: Iterator[Site]) -> Site:
    """A topic of the test's own, of two partitions."""
    return next(sites)

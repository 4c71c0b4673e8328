"""Micro-batches on other devices than this one's processor: a registry's version, loaded and served as a worker does.

What a CUDA device runs is plain tensor code that any device has, so all but its kernels is tested here too.
"""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model import recommender as serving
from model.baselines.popularity import Popularity
from model.catalogue import PlainCatalogue
from model.playing import PlainPlayer
from model.registry import Registry
from stream.loading import Loader
from stream.micro_batch import SessionKey
from stream.processor import Processor
from stream.session import Session
from tests.stream.builders import IDLE_MS, ITEMS, NOW_MS, record, write_version

TOP_K, BATCHES, CLICKS = 5, 4, 40

Answers = list[tuple[list[str], list[float]]]


def served(registry: Registry, device: str, *, with_companion: bool) -> tuple[Answers, list[NDArray[np.float32]]]:
    """Return the answers to some micro-batches, some sessions in several of them, and the states after the last."""
    announced = write_version(registry, "v1", with_companion=with_companion)
    recommender = Loader(registry, top_k=TOP_K, device=device).load(announced, None).recommender
    processor = Processor(top_k=TOP_K, idle_ms=IDLE_MS, popularity=Popularity())
    generator = np.random.default_rng(3)
    store: dict[tuple[int, bytes], Session] = {}
    answers: Answers = []

    def load(keys: Sequence[SessionKey]) -> list[Session | None]:
        return [store.get(key) for key in keys]

    for batch in range(BATCHES):
        clicks = zip(generator.integers(len(ITEMS), size=CLICKS), generator.integers(9, size=CLICKS), strict=True)
        records = [
            record(batch * CLICKS + place, ITEMS[item], session_id=f"s{session}", event_ms=NOW_MS + batch)
            for place, (item, session) in enumerate(clicks)
        ]
        outcome = processor.process(records, load, recommender, NOW_MS)
        store |= outcome.sessions
        answers += [(answer.recommendation.items, answer.recommendation.scores) for answer in outcome.answers]
    return answers, [session.hidden for _, session in sorted(store.items())]


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> str:
    """The code of other devices, on this one's processor."""
    monkeypatch.setattr(serving, "catalogue_of", PlainCatalogue)
    monkeypatch.setattr(serving, "player_of", PlainPlayer)
    return "cpu"


@pytest.fixture
def cuda() -> str:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return "cuda"


@pytest.mark.parametrize("with_companion", [False, True], ids=["network alone", "with companion"])
@pytest.mark.parametrize("device", ["plainly", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_another_device_gives_the_answers_and_states_of_the_processor(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, device: str, *, with_companion: bool
) -> None:
    before, after = (Registry(str(tmp_path_factory.mktemp("registry"))) for _ in range(2))
    expected, expected_states = served(before, "cpu", with_companion=with_companion)
    found, found_states = served(after, request.getfixturevalue(device), with_companion=with_companion)
    assert [items for items, _ in found] == [items for items, _ in expected]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=2e-3)
    np.testing.assert_allclose(found_states, expected_states, atol=1e-4)

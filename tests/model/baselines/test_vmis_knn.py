import heapq
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.baselines.histories import Histories
from model.baselines.vmis_knn import VMISKNN
from tests.model.baselines.sessions_of_rows import fitted, sessions_of

ITEMS = 8


def scores_by_the_walk(
    past: list[list[int]], history: list[int], recent: int, neighbours: int, last_items: int
) -> list[float]:
    """Walk the index as the paper does, newest item first, with eviction and early stopping; past[-1] is the newest."""
    history = history[-last_items:]
    index = {row: [s for s in reversed(range(len(past))) if row in past[s]][:recent] for row in range(ITEMS)}
    similarity: dict[int, float] = {}
    oldest_first: list[int] = []
    for age, row in enumerate(reversed(history)):
        if row in history[len(history) - age :]:
            continue
        weight = (len(history) - age) / len(history)
        for session in index[row]:
            if session in similarity:
                similarity[session] += weight
            elif len(similarity) < recent:
                similarity[session] = weight
                heapq.heappush(oldest_first, session)
            elif session > oldest_first[0]:
                del similarity[heapq.heapreplace(oldest_first, session)]
                similarity[session] = weight
            else:
                break
    nearest = sorted(similarity, key=lambda session: (-similarity[session], -session))[:neighbours]
    scores = [0.0] * ITEMS
    for session in nearest:
        place = next(age for age, row in enumerate(reversed(history), start=1) if row in past[session])
        for row in set(past[session]):
            idf = math.log(len(past) / sum(row in other for other in past))
            scores[row] += max(0, 1 - place / 10) * similarity[session] * idf
    return scores


CLICKS = st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=6)


@settings(max_examples=150)
@given(
    past=st.lists(CLICKS, min_size=1, max_size=25),
    histories=st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=14), min_size=1, max_size=4),
    recent=st.integers(1, 6),
    neighbours=st.integers(1, 4),
    last_items=st.integers(1, 12),
)
def test_scores_equal_those_of_the_index_walk_of_the_paper(
    past: list[list[int]], histories: list[list[int]], recent: int, neighbours: int, last_items: int
) -> None:
    past = [*past, [0, 1]]  # so that there is something to learn
    baseline = fitted(
        "vmis-knn",
        sessions_of(past),
        ITEMS,
        recent_sessions=recent,
        neighbours=neighbours,
        last_items=last_items,
    )
    found = baseline.score(Histories.of(histories)).tolist()
    for scores, history in zip(found, histories, strict=True):
        expected = scores_by_the_walk(past, history, recent, neighbours, last_items)
        assert scores == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_sessions_are_as_recent_as_their_end() -> None:
    sessions = sessions_of([[0, 1], [0, 2]])
    late = replace(sessions, end_ms=np.array([5000, 1000]))
    histories = Histories.of([[0]])
    assert fitted("vmis-knn", sessions, 3, recent_sessions=1).top_k(histories, 1)[0].tolist() == [[2]]
    assert fitted("vmis-knn", late, 3, recent_sessions=1).top_k(histories, 1)[0].tolist() == [[1]]


def test_the_last_item_is_left_out_only_where_asked() -> None:
    sessions = sessions_of([[0, 1], [0, 2], [3, 4], [3, 5]])
    with_last = fitted("vmis-knn", sessions, 6).score(Histories.of([[3, 0]]))[0]
    without = fitted("vmis-knn", sessions, 6, excludes_last=True).score(Histories.of([[3, 0]]))[0]
    assert with_last[0] > 0
    assert without[0] == 0
    assert without[1:].tolist() == with_last[1:].tolist()


def test_many_histories_are_answered_in_blocks_as_alone() -> None:
    generator = np.random.default_rng(0)
    past = [generator.integers(ITEMS, size=4).tolist() for _ in range(30)]
    histories = Histories.of([generator.integers(ITEMS, size=3).tolist() for _ in range(10)])
    # Blocks are cut by how many sessions may be compared, so so many of them leave one history to a block.
    cut = fitted("vmis-knn", sessions_of(past), ITEMS, recent_sessions=1 << 22).score(histories)
    whole = fitted("vmis-knn", sessions_of(past), ITEMS, recent_sessions=1000).score(histories)
    assert cut.tolist() == whole.tolist()


def test_an_index_that_points_nowhere_is_refused() -> None:
    baseline = fitted("vmis-knn", sessions_of([[0, 1], [1, 2]]), 3)
    tensors = baseline.to_tensors()
    with pytest.raises(ValueError, match="'recent' must hold values from 0 to 1"):
        VMISKNN.from_tensors(baseline.settings, tensors | {"recent": tensors["recent"] + 2})
    with pytest.raises(ValueError, match="'items' must hold values from 0 to 2"):
        VMISKNN.from_tensors(baseline.settings, tensors | {"items": tensors["items"] - 1})

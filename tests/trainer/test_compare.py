from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.baselines.kinds import BASELINES
from model.baselines.scorer import BaselineScorer
from model.baselines.shelf import Shelf
from model.clicks import Click, ClickTable, Sessions
from model.companion import Companion, Mixing
from model.gru4rec import GRU4Rec
from model.transitions import Transitions
from model.vocabulary import Vocabulary
from tests.trainer.click_builders import SMALL, cyclic_clicks, table_of
from trainer.compare import Finished, Kept, Question, compare
from trainer.protocols import split_protocol
from trainer.scorers import NetworkScorer, Scorer, scorer_of

ITEMS = [f"item-{number}" for number in range(12)]
CYCLES = table_of(cyclic_clicks(ITEMS, sessions=150))


def question_of(table: ClickTable, split: str, *, removes_seen: bool = False) -> Question:
    return Question(split_protocol(table, split), (5,), "conservative", removes_seen, SMALL)


def test_leave_one_out_learns_all_but_the_last_click_of_each_session_and_ranks_that_one() -> None:
    clicks = [("a", "x"), ("b", "y"), ("a", "y"), ("c", "x"), ("b", "x"), ("a", "z")]
    protocol = split_protocol(table_of(Click(s, i, at) for at, (s, i) in enumerate(clicks)), "leave-one-out")
    learned = [(click.session_id, click.item_id) for click in protocol.train.clicks()]
    assert learned == [("a", "x"), ("b", "y"), ("a", "y"), ("c", "x")], "a session of one click has no case"

    sessions, counted = protocol.cases(Vocabulary(["x", "y"]))
    assert sessions.items.tolist() == [0, 1, -1, 1, 0]
    assert counted.tolist() == [False, False, False, False, True], "an item that nobody knows is no case"


def test_other_splits_rank_every_click_but_the_first() -> None:
    protocol = split_protocol(CYCLES, "sessions:10")
    sessions, counted = protocol.cases(Vocabulary(ITEMS))
    assert len(sessions) == 10
    assert counted.sum() == len(sessions.items) - 10


def test_an_unknown_split_is_refused_with_all_that_there_are() -> None:
    with pytest.raises(ValueError, match="expected leave-one-out, days:N, sessions:N or period:P, got 'hours:1'"):
        split_protocol(CYCLES, "hours:1")


@pytest.mark.parametrize("model", ["network", "companion", "popularity", "vmis-knn"])
def test_ranks_without_seen_items_are_those_among_the_items_not_seen(model: str) -> None:
    """Against a ranking from single scores, over sessions that click some items again, the case's own among them."""
    generator = np.random.default_rng(4)
    table = table_of(
        Click(f"s{session}", ITEMS[generator.integers(12)], session * 10 + step)
        for session in range(40)
        for step in range(6)
    )
    protocol = split_protocol(table, "sessions:20")
    sessions, counted = protocol.cases(Vocabulary(ITEMS))
    if model == "network":
        network = GRU4Rec.initialised(SMALL.network(), 12, torch.Generator().manual_seed(1))
        plain, without = NetworkScorer(network), NetworkScorer(network, removes_seen=True)
    elif model == "companion":
        network = GRU4Rec.initialised(SMALL.network(), 12, torch.Generator().manual_seed(1))
        transitions = Transitions(12)
        transitions.add(sessions)
        companion = Companion(transitions.neighbours(), Mixing())
        plain, without = (scorer_of(network, companion, removes_seen=removes) for removes in (False, True))
    else:
        kind = BASELINES[model]
        baseline = kind.fit(sessions, 12, kind.settings_type(), torch.Generator().manual_seed(1))
        plain, without = BaselineScorer(baseline), BaselineScorer(baseline, removes_seen=True)

    def rank_of(scorer: Scorer, place: int, item: int) -> int:
        """The rank of an item after the clicks before a place."""
        changed = replace(sessions, items=sessions.items.copy())
        changed.items[place] = item
        only = np.zeros(len(counted), dtype=np.bool_)
        only[place] = True
        return int(scorer.next_click_ranks(changed, only, "standard")[0])

    starts = np.repeat(sessions.offsets[:-1], sessions.lengths)
    found = without.next_click_ranks(sessions, counted, "standard")
    for place, rank in list(zip(np.flatnonzero(counted).tolist(), found.tolist(), strict=True))[::7]:
        target = int(sessions.items[place])
        before = set(sessions.items[starts[place] : place].tolist()) - {target}
        ahead = [item for item in range(12) if rank_of(plain, place, item) < rank_of(plain, place, target)]
        assert rank == 1 + len(set(ahead) - before)


def test_who_learns_the_cycle_foresees_it_and_who_counts_items_does_not() -> None:
    network, popular = compare(question_of(CYCLES, "sessions:30"), ["gru4rec", "popularity"])
    assert (network["model"], popular["model"]) == ("gru4rec", "popularity")
    assert network["cases"] == popular["cases"] == 30 * 7
    assert network["mrr@20"] == network["recall@5"] == network["hr@10"] == 1.0
    assert network["recall@20_interval"] == (1.0, 1.0)
    assert popular["mrr@20_interval"] == pytest.approx((1 / 12, 1 / 12)), "all twelve items tie, so each comes last"
    assert network["coverage@20"] == 1.0
    assert 0 <= network["popularity@20"] <= 1
    assert min(network["train_s"], network["ms_per_answer"]) > 0


def test_popularity_of_all_time_of_late_and_of_the_session_are_three_systems() -> None:
    played = ["old"] * 3_000 + ["rare"] + ["new"] * 2_500 + ["new", "rare"] * 10
    table = table_of(Click(f"s{n}", item, 2 * n + again) for n, item in enumerate(played) for again in (0, 1))
    names = ["popularity", "popularity-recent", "popularity-in-session"]
    question = Question(split_protocol(table, "sessions:20"), (1,), "standard", removes_seen=False, settings=SMALL)
    assert [row["recall@1"] for row in compare(question, names)] == [0.0, 0.5, 1.0]


def test_leave_one_out_can_foresee_the_cycle_without_the_items_seen() -> None:
    (row,) = compare(question_of(CYCLES, "leave-one-out", removes_seen=True), ["gru4rec"])
    assert (row["cases"], row["mrr@20"]) == (150, 1.0)


def test_rows_that_were_found_are_not_found_again_unless_the_question_differs(tmp_path: Path) -> None:
    question = question_of(CYCLES, "sessions:30")
    first = list(compare(question, ["popularity"], finished=Finished(tmp_path / "rows", {"file": "a"})))
    again = list(compare(question, ["popularity"], finished=Finished(tmp_path / "rows", {"file": "a"})))
    assert again[0]["train_s"] == first[0]["train_s"]
    assert Finished(tmp_path / "rows", {"file": "a"}).get("popularity", question) is not None
    assert Finished(tmp_path / "rows", {"file": "b"}).get("popularity", question) is None
    other = replace(question, removes_seen=True)
    assert Finished(tmp_path / "rows", {"file": "a"}).get("popularity", other) is None


def test_baselines_on_a_shelf_are_not_fitted_again_unless_clicks_or_seed_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    question, shelf = question_of(CYCLES, "sessions:30"), Shelf(str(tmp_path))
    (first,) = compare(question, ["vmis-knn"], kept=Kept(shelf, {"file": "a"}))
    fits: list[Sessions] = []

    def refuse(sessions: Sessions, *_more: object) -> None:
        fits.append(sessions)
        raise ValueError("fitted")

    monkeypatch.setattr(BASELINES["vmis-knn"], "fit", refuse)
    (again,) = compare(replace(question, ks=(3,), removes_seen=True), ["vmis-knn"], kept=Kept(shelf, {"file": "a"}))
    assert again["train_s"] == first["train_s"]
    assert "recall@3" in again
    other = replace(question, settings=SMALL.model_copy(update={"seed": 5}))
    for asked, clicks in ((question, "b"), (other, "a")):
        with pytest.raises(ValueError, match="fitted"):
            next(compare(asked, ["vmis-knn"], kept=Kept(shelf, {"file": clicks})))
    assert len(fits) == 2


def test_a_file_of_rows_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text("{}\n")
    with pytest.raises(ValueError, match="holds a line that is no row"):
        Finished(tmp_path / "rows", {})


def test_clicks_that_no_model_can_rank_are_refused() -> None:
    strangers = table_of(cyclic_clicks(["u", "v"], sessions=5, start_ms=10**9))
    protocol = replace(split_protocol(CYCLES, "sessions:10"), test=strangers)
    with pytest.raises(ValueError, match="nothing to rank"):
        next(compare(Question(protocol, (5,), "conservative", removes_seen=False, settings=SMALL), ["popularity"]))

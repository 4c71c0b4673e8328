"""What every baseline promises, checked on each."""

import json
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from model.baselines.contract import Baseline, settings_from_dict, settings_to_dict
from model.baselines.histories import Histories
from model.baselines.kinds import BASELINES, baseline_from_tensors
from model.clicks import Sessions
from model.ranking import ranks
from tests.model.baselines.sessions_of_rows import cliques, cyclic, fitted, next_clicks, sessions_of, shuffled

ITEMS = 12
EVERY = pytest.mark.parametrize("kind", list(BASELINES))
KNOW_ORDER = ("fpmc", "sasrec", "bert4rec")
BRIEF = {"bert4rec": {"epochs": 2}, "sasrec": {"epochs": 2}, "bpr-mf": {"epochs": 5}, "fpmc": {"epochs": 5}}


def briefly_fitted(kind: str, **settings: Any) -> Baseline:
    return fitted(kind, shuffled(ITEMS, sessions=80, seed=1), ITEMS, **BRIEF.get(kind, {}) | settings)


def some_histories() -> Histories:
    generator = np.random.default_rng(2)
    lengths = [1, 4, 2, 0, 7, 1, 3, 20]  # none, one, and more than some models look at
    return Histories.of([generator.integers(ITEMS, size=length).tolist() for length in lengths])


def ranks_of_next_clicks(baseline: Baseline, sessions: Sessions) -> torch.Tensor:
    histories, targets = next_clicks(sessions)
    return ranks(baseline.score(histories), torch.from_numpy(targets))


@pytest.mark.parametrize("kind", KNOW_ORDER)
def test_what_knows_the_order_of_clicks_foretells_every_click_of_a_cycle(kind: str) -> None:
    baseline = fitted(kind, cyclic(ITEMS, sessions=300), ITEMS)
    found = ranks_of_next_clicks(baseline, cyclic(ITEMS, sessions=60, start=5))
    assert found.tolist() == [1] * len(found)


def test_item_knn_takes_the_items_before_and_after_on_a_cycle_for_equally_near() -> None:
    baseline = fitted("item-knn", cyclic(ITEMS, sessions=300), ITEMS)
    assert ranks_of_next_clicks(baseline, cyclic(ITEMS, sessions=60, start=5)).max() == 2


@pytest.mark.parametrize("kind", ["item-knn", "vmis-knn", "bpr-mf"])
def test_what_only_knows_which_items_go_together_ranks_them_before_all_others(kind: str) -> None:
    """Groups of 4 items: whatever the history, the next click is one of 4."""
    baseline = fitted(kind, cliques(5, 4, sessions=200, seed=3), 20)
    assert ranks_of_next_clicks(baseline, cliques(5, 4, sessions=50, seed=4)).max() <= 4


@EVERY
def test_clicks_without_any_pattern_are_hit_by_chance_alone(kind: str) -> None:
    """Each of 2,000 targets is in a list of 3 of 12 items with a chance of 1/4, whatever the model does.

    So hits are binomial with a deviation of 19.4; the bounds are 5 deviations off: 1 in 1,700,000 runs fails.
    """
    baseline = briefly_fitted(kind)
    histories, targets = next_clicks(shuffled(ITEMS, sessions=500, seed=5))
    rows, _ = baseline.top_k(histories, 3)
    assert len(targets) == 2000
    assert 403 <= (rows == targets[:, None]).sum() <= 597


@EVERY
def test_batch_answers_equal_one_by_one_answers(kind: str) -> None:
    baseline, histories = briefly_fitted(kind), some_histories()
    alone = [baseline.score(histories.select(np.array([place]))) for place in range(len(histories))]
    torch.testing.assert_close(baseline.score(histories), torch.cat(alone), rtol=1e-5, atol=1e-6)


@EVERY
def test_scores_are_finite_float32_for_any_history(kind: str) -> None:
    scores = briefly_fitted(kind).score(some_histories())
    assert scores.shape == (8, ITEMS)
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    assert not scores.requires_grad


@EVERY
def test_no_histories_give_no_answers(kind: str) -> None:
    baseline = briefly_fitted(kind)
    rows, scores = baseline.top_k(Histories.of([]), 5)
    assert rows.shape == scores.shape == (0, 5)


@EVERY
@pytest.mark.parametrize("k", [1, 5, ITEMS, 100])
def test_best_k_are_those_of_all_scores(kind: str, k: int) -> None:
    baseline, histories = briefly_fitted(kind), some_histories()
    rows, scores = baseline.top_k(histories, k)
    everything = baseline.score(histories)
    expected = everything.sort(dim=1, descending=True).values[:, :k]
    np.testing.assert_array_equal(scores, expected)
    np.testing.assert_array_equal(everything.gather(1, torch.from_numpy(rows).long()), expected)
    assert all(len(set(answer)) == len(answer) == min(k, ITEMS) for answer in rows.tolist())


@EVERY
def test_what_is_saved_and_loaded_answers_bit_for_bit_as_before(kind: str) -> None:
    baseline, histories = briefly_fitted(kind), some_histories()
    settings = json.loads(json.dumps(settings_to_dict(baseline.settings)))
    tensors = safetensors.torch.load(safetensors.torch.save(baseline.to_tensors()))
    loaded = baseline_from_tensors(kind, settings, tensors)
    assert loaded.settings == baseline.settings
    assert loaded.item_count == ITEMS
    assert torch.equal(loaded.score(histories), baseline.score(histories))


@EVERY
def test_a_tensor_that_is_missing_unexpected_or_misshapen_is_named(kind: str) -> None:
    baseline = briefly_fitted(kind)
    tensors = baseline.to_tensors()
    for name, tensor in tensors.items():
        for damaged in (
            {other: kept for other, kept in tensors.items() if other != name},
            tensors | {name: tensor.unsqueeze(0)},
            tensors | {name: tensor.to(torch.float16)},
        ):
            with pytest.raises(ValueError, match="the tensor"):
                type(baseline).from_tensors(baseline.settings, damaged)
    with pytest.raises(ValueError, match="'surplus' is unexpected"):
        type(baseline).from_tensors(baseline.settings, tensors | {"surplus": torch.zeros(1)})


@EVERY
def test_equal_seeds_give_equal_tensors_whatever_the_global_state(kind: str) -> None:
    torch.manual_seed(1)
    settings = {"dropout": 0.1} if kind in {"sasrec", "bert4rec"} else {}
    first = briefly_fitted(kind, **settings).to_tensors()
    torch.manual_seed(2)
    second = briefly_fitted(kind, **settings).to_tensors()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", ["bpr-mf", "fpmc", "sasrec", "bert4rec"])
def test_another_seed_learns_another_model(kind: str) -> None:
    first, second = briefly_fitted(kind).to_tensors(), briefly_fitted(kind, seed=1).to_tensors()
    assert any(not torch.equal(first[name], second[name]) for name in first)


@EVERY
def test_only_the_window_of_a_history_counts(kind: str) -> None:
    baseline = briefly_fitted(kind)
    long = some_histories().select(np.array([7]))
    if baseline.window is None:
        assert not torch.equal(baseline.score(long), baseline.score(long.latest(1)))
    else:
        torch.testing.assert_close(baseline.score(long), baseline.score(long.latest(baseline.window)))


@EVERY
def test_progress_ends_at_its_total(kind: str) -> None:
    said: list[tuple[int, int]] = []
    baseline = BASELINES[kind]
    settings = settings_from_dict(baseline, BRIEF.get(kind, {}))
    sessions = shuffled(ITEMS, sessions=80, seed=1)
    baseline.fit(sessions, ITEMS, settings, torch.Generator().manual_seed(0), lambda *seen: said.append(seen))
    assert said == sorted(said)
    assert said[-1][0] == said[-1][1]


@EVERY
@pytest.mark.parametrize(
    ("clicks", "message"),
    [([[0, 1], [2, 12]], "0 to 11, got 0 to 12"), ([[0, -1]], "got -1"), ([[0], [1]], "no session of two clicks")],
)
def test_sessions_that_cannot_be_learnt_from_are_refused(kind: str, clicks: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(kind, sessions_of(clicks), ITEMS)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("item-knn", {"neighbors": 3}, "item-knn has no setting neighbors"),
        ("item-knn", {"neighbours": "three"}, "not settings of item-knn"),
        ("item-knn", {"neighbours": 0}, "neighbours >= 1"),
        ("item-knn", {"balance": 1.1}, "balance <= 1"),
        ("popularity", {"half_life_clicks": 0.0}, "half_life_clicks must be above 0"),
        ("vmis-knn", {"last_items": 0}, "at least 1"),
        ("bpr-mf", {"factors": 0}, "at least 1"),
        ("bpr-mf", {"learning_rate": 0.0}, "learning_rate > 0"),
        ("fpmc", {"basket": 0}, "at least 1"),
        ("fpmc", {"regularisation": -1.0}, "regularisation >= 0"),
        ("sasrec", {"heads": 3}, "3 heads do not divide"),
        ("sasrec", {"negatives": -1}, "negatives at least 0"),
        ("sasrec", {"dropout": 1.0}, "dropout < 1"),
        ("bert4rec", {"length": 1}, "length at least 2"),
        ("bert4rec", {"heads": 3}, "3 heads do not divide"),
        ("bert4rec", {"mask_share": 0.0}, "0 < mask_share"),
        ("bert4rec", {"clip_norm": 0.0}, "clip_norm > 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(kind: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings_from_dict(BASELINES[kind], settings)


def test_an_unknown_kind_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="'gru' is no kind of baseline; there are popularity"):
        baseline_from_tensors("gru", {}, {})

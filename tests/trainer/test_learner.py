import numpy as np
import pytest
import torch

from model.clicks import Click, Sessions, sessionise
from model.registry import ModelVersion
from tests.trainer.click_builders import SMALL, cyclic_clicks, table_of
from trainer.fine_tune import train
from trainer.fit import fit
from trainer.learner import as_rows, grown_learner, new_learner
from trainer.settings import TrainerSettings


def parent(settings: TrainerSettings = SMALL) -> ModelVersion:
    return fit(table_of(cyclic_clicks("ABC", sessions=50)), settings, version="parent", created_at_ms=0)[0]


def sessions_of(*sessions: str) -> tuple[Sessions, list[str]]:
    table = table_of(
        [
            Click(f"s{number}", item, number * 1000 + step)
            for number, session in enumerate(sessions)
            for step, item in enumerate(session)
        ]
    )
    return sessionise(table), table.item_ids


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_items_get_rows_in_the_order_of_their_first_appearance() -> None:
    sessions, item_ids = sessions_of("CA", "BA")
    learner = new_learner(sessions, item_ids, SMALL, generator())
    assert learner.vocabulary.item_ids == ["C", "A", "B"]
    assert as_rows(sessions, item_ids, learner.vocabulary).items.tolist() == [0, 1, 2, 1]


def test_new_items_are_appended_and_known_rows_stay() -> None:
    version = parent()
    sessions, item_ids = sessions_of("AxB", "yC")
    learner = grown_learner(version, sessions, item_ids, SMALL, generator())
    assert learner.vocabulary.item_ids == [*version.vocabulary.item_ids, "x", "y"]
    assert torch.equal(learner.network.parameters["embedding"][:3], version.network.parameters["embedding"])


def test_a_new_item_starts_at_the_mean_vector_of_the_known_items_in_its_sessions() -> None:
    version = parent()
    sessions, item_ids = sessions_of("AxB", "CxCy", "zz", "AB")
    learner = grown_learner(version, sessions, item_ids, SMALL, generator())
    vector = dict(zip(learner.vocabulary.item_ids, learner.network.parameters["embedding"], strict=True))
    torch.testing.assert_close(vector["x"], (vector["A"] + vector["B"] + 2 * vector["C"]) / 4)
    torch.testing.assert_close(vector["y"], vector["C"])
    drawn = version.network.with_items(6, generator=generator()).parameters["embedding"]
    assert torch.equal(vector["z"], drawn[5]), "an item that met no known one starts as in an untrained network"


@pytest.mark.parametrize("changes", [{"item_input": "separate"}, {"item_input": "one_hot", "skip": False}], ids=str)
def test_a_new_item_starts_at_the_mean_in_every_table_of_vectors_and_goes_on_to_learn(
    changes: dict[str, object],
) -> None:
    settings = SMALL.model_copy(update=changes)
    version = parent(settings)
    sessions, item_ids = sessions_of("AxB", "CxCy", "zz", "AB")
    # Under the settings of a network with one shared table: the shape of the parent is what counts.
    learner = grown_learner(version, sessions, item_ids, SMALL, generator())
    for name in ("embedding", "item_input"):
        vector = dict(zip(learner.vocabulary.item_ids, learner.network.parameters[name], strict=True))
        torch.testing.assert_close(vector["x"], (vector["A"] + vector["B"] + 2 * vector["C"]) / 4)
        drawn = version.network.with_items(6, generator=generator()).parameters[name]
        assert torch.equal(vector["z"], drawn[5]), "an item that met no known one starts as in an untrained network"
        assert torch.equal(learner.network.parameters[name][:3], version.network.parameters[name])
    before = learner.network.parameters["item_input"].clone()
    rows = as_rows(sessions, item_ids, learner.vocabulary)
    train(learner.network, learner.optimizer, rows, SMALL, epochs=1, generator=generator())
    assert (learner.network.parameters["item_input"] != before).any(dim=1).tolist() == [
        item in "ACxz" for item in "ABCxyz"
    ], "items that end their sessions are never taken in"


@pytest.mark.parametrize(("first", "then"), [("element", "row"), ("row", "element")])
def test_a_version_goes_on_with_accumulators_of_the_other_kind(first: str, then: str) -> None:
    version = parent(SMALL.model_copy(update={"accumulator": first}))
    settings = SMALL.model_copy(update={"accumulator": then})
    sessions, item_ids = sessions_of("AxB", "CxC")
    learner = grown_learner(version, sessions, item_ids, settings, generator())
    rows = as_rows(sessions, item_ids, learner.vocabulary)
    train(learner.network, learner.optimizer, rows, settings, epochs=1, generator=generator())
    shapes = {"element": (4, SMALL.embedding_size), "row": (4,)}
    assert tuple(version.optimizer_state["accumulator.embedding"].shape) == (3, *shapes[first][1:])
    assert tuple(learner.optimizer.state["accumulator.embedding"].shape) == shapes[then]


def test_the_parent_is_left_as_it_was_and_its_optimizer_goes_on() -> None:
    version = parent()
    before = {name: tensor.clone() for name, tensor in version.network.parameters.items()}
    state = {name: tensor.clone() for name, tensor in version.optimizer_state.items()}
    sessions, item_ids = sessions_of("AxB")
    learner = grown_learner(version, sessions, item_ids, SMALL, generator())
    assert torch.equal(learner.optimizer.state["accumulator.embedding"][:3], state["accumulator.embedding"])
    assert not learner.optimizer.state["accumulator.embedding"][3:].any()
    for tensor in (*learner.network.parameters.values(), *learner.optimizer.state.values()):
        tensor.fill_(7)
    assert all(torch.equal(tensor, before[name]) for name, tensor in version.network.parameters.items())
    assert all(torch.equal(tensor, state[name]) for name, tensor in version.optimizer_state.items())


@pytest.mark.parametrize("seen", ["AB", "ABC"])
def test_without_new_items_the_vocabulary_stays(seen: str) -> None:
    version = parent()
    sessions, item_ids = sessions_of(seen)
    learner = grown_learner(version, sessions, item_ids, SMALL, generator())
    assert learner.vocabulary.item_ids == version.vocabulary.item_ids
    assert np.array_equal(learner.network.parameters["embedding"], version.network.parameters["embedding"])

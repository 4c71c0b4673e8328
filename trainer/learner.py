"""What learns: a network with its optimizer, and pair counts, from scratch or from a version that serves."""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from model.clicks import Sessions
from model.gru4rec import EMBEDDING, GRU4Rec
from model.optimizer import SparseAdagrad
from model.registry import ModelVersion
from model.transitions import Transitions
from model.vocabulary import Vocabulary
from trainer.settings import TrainerSettings


@dataclass(frozen=True)
class Learner:
    """What is free to change.

    Attributes:
        network: On the device where it learns.
        vocabulary: Its items.
        optimizer: Of the network.
        transitions: The companion's counts, of the same items; None where no companion is wanted.
    """

    network: GRU4Rec
    vocabulary: Vocabulary
    optimizer: SparseAdagrad
    transitions: Transitions | None

    def grown(self, sessions: Sessions, item_ids: list[str], generator: torch.Generator) -> "Learner":
        """Return the learner with the sessions' unknown items appended; what it shares with this one goes on to change.

        A new item starts at the mean vector of the known items in its sessions, in every table of vectors; where it met
        none, it starts as in an untrained network.

        Args:
            sessions: Of codes into `item_ids`.
            item_ids: What the codes mean.
            generator: Draws the vectors of new items that met no known one.
        """
        new_ids = in_order_of_appearance(sessions, item_ids)
        network, vocabulary = with_new_items(
            self.network, self.vocabulary, new_ids, sessions=sessions, item_ids=item_ids, generator=generator
        )
        if network is self.network:
            return self
        if self.transitions is not None:
            self.transitions.grow(len(vocabulary))
        return Learner(network, vocabulary, self.optimizer.with_rows(len(vocabulary)), self.transitions)


def with_new_items(
    network: GRU4Rec,
    vocabulary: Vocabulary,
    new_ids: Iterable[str],
    *,
    sessions: Sessions,
    item_ids: list[str],
    generator: torch.Generator,
) -> tuple[GRU4Rec, Vocabulary]:
    """Return a network and its vocabulary with the unknown ones among some items appended; see `Learner.grown`."""
    extended = vocabulary.extended(new_ids)
    known = len(vocabulary)
    if len(extended) == known:
        return network, vocabulary
    rows = extended.rows(item_ids)[sessions.items]
    parameters = dict(network.with_items(len(extended), generator=generator).parameters)
    for name in {EMBEDDING, network.settings.input_table}:
        vectors = parameters[name].numpy(force=True)
        _start_new_rows_near_known(vectors, rows, sessions, known)
        parameters[name] = torch.from_numpy(vectors).to(network.input_table.device)
    return GRU4Rec(network.settings, parameters), extended


def new_learner(
    sessions: Sessions, item_ids: list[str], settings: TrainerSettings, generator: torch.Generator
) -> Learner:
    """Return an untrained learner of the sessions' items, in the order of their first appearance.

    Args:
        sessions: Of codes into `item_ids`.
        item_ids: What the codes mean.
        settings: The network's shape, the recipe, and the device.
        generator: Draws the weights.
    """
    vocabulary = Vocabulary(in_order_of_appearance(sessions, item_ids))
    network = GRU4Rec.initialised(settings.network(), len(vocabulary), generator)
    optimizer = SparseAdagrad(settings.learning_rate, settings.momentum, accumulator=settings.accumulator)
    transitions = Transitions(len(vocabulary)) if settings.companion else None
    return Learner(network.to(settings.torch_device()), vocabulary, optimizer, transitions)


def grown_learner(
    parent: ModelVersion,
    sessions: Sessions,
    item_ids: list[str],
    settings: TrainerSettings,
    generator: torch.Generator,
) -> Learner:
    """Return a learner that goes on from a version, with the sessions' unknown items appended; see `Learner.grown`.

    The version itself is left as it was. Its shape is kept whatever the settings say.

    Args:
        parent: Loaded with its optimizer state.
        sessions: Of codes into `item_ids`.
        item_ids: What the codes mean.
        settings: The recipe, and the device.
        generator: Draws the vectors of new items that met no known one.
    """
    # Cloned: training changes tensors in place, and those of the parent still serve as the incumbent in the gate.
    parameters = {name: tensor.clone() for name, tensor in parent.network.parameters.items()}
    device = settings.torch_device()
    state = {name: tensor.to(device, copy=True) for name, tensor in parent.optimizer_state.items()}
    optimizer = SparseAdagrad(settings.learning_rate, settings.momentum, accumulator=settings.accumulator, state=state)
    network = GRU4Rec(parent.network.settings, parameters).to(device)
    transitions = (deepcopy(parent.transitions) or Transitions(network.item_count)) if settings.companion else None
    return Learner(network, parent.vocabulary, optimizer, transitions).grown(sessions, item_ids, generator)


def as_rows(sessions: Sessions, item_ids: list[str], vocabulary: Vocabulary) -> Sessions:
    """Return sessions of codes as sessions of rows, -1 where the vocabulary lacks the item."""
    return replace(sessions, items=vocabulary.rows(item_ids)[sessions.items])


def in_order_of_appearance(sessions: Sessions, item_ids: list[str]) -> list[str]:
    """Return the ids of the sessions' items, each once, by their first click."""
    codes, first = np.unique(sessions.items, return_index=True)
    return [item_ids[code] for code in codes[np.argsort(first)].tolist()]


def _start_new_rows_near_known(
    vectors: NDArray[np.float32], rows: NDArray[np.int64], sessions: Sessions, known: int
) -> None:
    """Set each new row, `known` and up, to the mean over its clicks of the known items' sum over their count."""
    session = np.repeat(np.arange(len(sessions)), sessions.lengths)
    touched, place = np.unique(session[rows >= known], return_inverse=True)
    if len(touched) == 0:
        return
    # Only sessions with a new item matter; the others would be most of the memory.
    slot = np.full(len(sessions), -1, dtype=np.int64)
    slot[touched] = np.arange(len(touched))
    is_context = (rows < known) & (slot[session] >= 0)
    context = np.zeros((len(touched), vectors.shape[1]), dtype=np.float32)
    np.add.at(context, slot[session[is_context]], vectors[rows[is_context]])
    context_clicks = np.bincount(slot[session[is_context]], minlength=len(touched))
    new = rows[rows >= known] - known
    total = np.zeros((len(vectors) - known, vectors.shape[1]), dtype=np.float32)
    np.add.at(total, new, context[place])
    clicks = np.bincount(new, weights=context_clicks[place], minlength=len(total))
    met = clicks > 0
    vectors[known:][met] = total[met] / clicks[met, None].astype(np.float32)

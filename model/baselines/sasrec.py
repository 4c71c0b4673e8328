"""SASRec: each click looks back at those before it, by self-attention, and foretells the next.

Shape letters: B histories, L longest of them, D width of a vector, T predicted positions, N items, K negatives.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from model.baselines.contract import OnProgress, require_sessions, silent
from model.baselines.histories import Histories
from model.baselines.transformer import (
    Descent,
    Transformer,
    attend,
    dropout_of,
    encoded_in_blocks,
    initialised,
    no_dropout,
    normalise,
    part,
    trained,
)
from model.clicks import Sessions
from model.gru4rec import EMBEDDING, Dropout

_POSITION = "position"
_INITIAL_SCALE = 0.02


@dataclass(frozen=True)
class SASRecSettings:
    """The network and the recipe; the defaults are those of the paper for MovieLens-1M, but for the loss and epochs.

    Attributes:
        embedding_size: D; input and output share one item table.
        blocks: Self-attention blocks.
        heads: Attention heads, a divisor of D.
        length: Most clicks of a session that are looked at: the last ones.
        dropout: On embeddings, attention weights and sublayers. The paper uses 0.5 for sparser data.
        negatives: K uniform negatives, shared by a mini-batch, in a sampled cross-entropy; 0 for all items. The paper
            sets one negative per position against the target (binary cross-entropy), which falls far behind either:
            NDCG@10 0.13 against 0.18 on MovieLens-1M (Klenitskiy & Vasilev 2023).
        learning_rate: Of Adam, with betas 0.9 and 0.98.
        batch_size: Sessions in a mini-batch, in the mean; every one has about as many clicks.
        epochs: Passes. The paper stops by a validation set.

    Raises:
        ValueError: A value is out of range.
    """

    embedding_size: int = 50
    blocks: int = 2
    heads: int = 1
    length: int = 200
    dropout: float = 0.2
    negatives: int = 0
    learning_rate: float = 0.001
    batch_size: int = 128
    epochs: int = 20

    def __post_init__(self) -> None:
        sizes = (self.embedding_size, self.blocks, self.heads, self.length, self.batch_size, self.epochs)
        if min(sizes) < 1 or self.negatives < 0:
            raise ValueError(f"every size must be at least 1 and negatives at least 0, got {self}")
        if self.embedding_size % self.heads:
            raise ValueError(f"{self.heads} heads do not divide an embedding_size of {self.embedding_size}")
        if not 0 <= self.dropout < 1 or self.learning_rate <= 0:
            raise ValueError(f"0 <= dropout < 1 and learning_rate > 0 are needed, got {self}")

    @property
    def window(self) -> int:
        """Most clicks of a history that are looked at."""
        return self.length

    def shapes(self, item_count: int) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every parameter."""
        width = self.embedding_size
        shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (item_count, width), _POSITION: (self.length, width)}
        for block in range(self.blocks):
            for name in ("query", "key", "value", "hidden", "output"):
                shapes[f"block.{block}.{name}_weight"] = (width, width)
            for name in ("hidden_bias", "output_bias"):
                shapes[f"block.{block}.{name}"] = (width,)
            for name in ("attention", "feedforward"):
                shapes |= {f"block.{block}.{name}_scale": (width,), f"block.{block}.{name}_shift": (width,)}
        return shapes | {"final_scale": (width,), "final_shift": (width,)}


class SASRec(Transformer):
    """Scores an item by the product of its embedding with the last position's vector.

    A block is x + dropout(attention(norm(x))), then the same with a feedforward layer of width D (ReLU); each position
    looks at itself and those before it. Positions are counted from the first click looked at, so a session is encoded
    in training as it is when answered; the paper counts them from the last.

    Source: Kang & McAuley 2018, "Self-Attentive Sequential Recommendation", arXiv:1808.09781; cross-entropy instead of
    their loss after Klenitskiy & Vasilev 2023, arXiv:2309.07602.
    """

    kind = "sasrec"
    settings_type = SASRecSettings

    @classmethod
    def fit(
        cls,
        sessions: Sessions,
        item_count: int,
        settings: SASRecSettings,
        generator: torch.Generator,
        on_progress: OnProgress = silent,
    ) -> Self:
        """See `Baseline.fit`; of a session longer than `length` + 1 only the end is used.

        Raises:
            ValueError: See there.
            FloatingPointError: Training diverged.
        """
        require_sessions(sessions, item_count)
        parameters = initialised(settings.shapes(item_count), _INITIAL_SCALE, generator)
        learner = cls(settings, parameters)
        dropout = dropout_of(settings.dropout, generator)
        optimizer = torch.optim.Adam(parameters.values(), lr=settings.learning_rate, betas=(0.9, 0.98))
        learnt = trained(
            parameters,
            optimizer,
            sessions,
            lambda batch: learner.loss(batch, dropout, generator),
            descent=Descent(settings.batch_size, settings.epochs, settings.length),
            generator=generator,
            on_progress=on_progress,
        )
        return cls(settings, learnt)

    def loss(self, sessions: Histories, dropout: Dropout, generator: torch.Generator) -> Tensor:
        """Return the mean cross-entropy of every next click of some sessions; the generator draws the negatives."""
        padded, is_row = sessions.latest(self.settings.length + 1).padded()
        table = self._parameters[EMBEDDING]
        rows = torch.from_numpy(padded).to(table.device)
        is_target = torch.from_numpy(is_row[:, 1:]).to(table.device)
        vectors = self._look_back(rows[:, :-1], dropout)[is_target]  # [T, D]
        targets = rows[:, 1:][is_target]
        if not self.settings.negatives:
            return functional.cross_entropy(vectors @ table.T, targets)
        drawn = torch.randint(len(table), (self.settings.negatives,), generator=generator, device=table.device)
        against = (vectors @ table[drawn].T).masked_fill(targets[:, None] == drawn, -torch.inf)  # [T, K]
        scores = torch.cat([(vectors * table[targets]).sum(dim=1, keepdim=True), against], dim=1)
        return functional.cross_entropy(scores, torch.zeros_like(targets))

    @torch.no_grad()
    def encode(self, histories: Histories) -> Tensor:
        """Return the last position's vector, float32 [B, D]; zeros for an empty history."""
        histories = histories.latest(self.settings.length)
        vectors = self.item_vectors.new_zeros(len(histories), self.settings.embedding_size)
        filled = np.flatnonzero(histories.lengths > 0)
        if len(filled):
            longest = int(histories.lengths.max())
            looked = encoded_in_blocks(histories.select(filled), longest, self._last_vectors)
            vectors[torch.from_numpy(filled).to(vectors.device)] = looked
        return vectors

    def _last_vectors(self, histories: Histories) -> Tensor:
        device = self.item_vectors.device
        looked = self._look_back(torch.from_numpy(histories.padded()[0]).to(device), no_dropout)
        return looked[torch.arange(len(histories), device=device), torch.from_numpy(histories.lengths - 1).to(device)]

    def _look_back(self, rows: Tensor, dropout: Dropout) -> Tensor:
        """Return a vector for each position, float32 [B, L, D], that depends on the rows up to there alone."""
        parameters, heads = self._parameters, self.settings.heads
        positions = parameters[_POSITION][: rows.shape[1]]
        x = dropout(parameters[EMBEDDING][rows] * self.settings.embedding_size**0.5 + positions)
        # What a history is filled up with stands behind it, where nothing that counts can see it.
        allowed = torch.ones(1, rows.shape[1], rows.shape[1], dtype=torch.bool, device=rows.device).tril()
        for block in range(self.settings.blocks):
            its = part(parameters, f"block.{block}.")
            calm = normalise(x, its, "attention")
            query, key, value = (calm @ its[f"{name}_weight"] for name in ("query", "key", "value"))
            x = x + dropout(attend(query, key, value, heads=heads, allowed=allowed, dropout=dropout))
            calm = normalise(x, its, "feedforward")
            hidden = dropout(torch.relu(calm @ its["hidden_weight"] + its["hidden_bias"]))
            x = x + dropout(hidden @ its["output_weight"] + its["output_bias"])
        return normalise(x, parameters, "final")

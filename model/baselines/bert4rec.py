"""BERT4Rec: clicks are masked and foretold from both sides; the next click is a mask behind the last.

Shape letters: B histories, L longest of them, D width of a vector, T predicted positions, N items.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model.baselines.contract import OnProgress, require_sessions, silent
from model.baselines.histories import Histories, Integers
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
from model.gru4rec import EMBEDDING, ITEM_BIAS, Dropout

_POSITION, _MASK = "position", "mask"
_INITIAL_SCALE = 0.02


@dataclass(frozen=True)
class BERT4RecSettings:
    """The network and the recipe; the defaults are those of the paper for MovieLens-1M, but for the epochs.

    Attributes:
        embedding_size: D; input and output share one item table.
        blocks: Transformer layers.
        heads: Attention heads, a divisor of D.
        length: Most positions, the mask for the next click included.
        dropout: On embeddings, attention weights and sublayers.
        mask_share: Chance of a click to be masked. The paper uses 0.6 and 0.4 for shorter sessions.
        last_share: Share of the samples in which the last click alone is masked, as in an answer; the authors' code
            makes one such sample for every ten others.
        learning_rate: Of Adam, falling in a line to zero. With the 0.0001 of the paper it needs very many epochs:
            0.001 is what later replications use.
        weight_decay: Of Adam, decoupled.
        clip_norm: Largest norm of a gradient.
        batch_size: Sessions in a mini-batch, in the mean; every one has about as many clicks.
        epochs: Passes.

    Raises:
        ValueError: A value is out of range.
    """

    embedding_size: int = 64
    blocks: int = 2
    heads: int = 2
    length: int = 200
    dropout: float = 0.1
    mask_share: float = 0.2
    last_share: float = 1 / 11
    learning_rate: float = 0.001
    weight_decay: float = 0.01
    clip_norm: float = 5.0
    batch_size: int = 256
    epochs: int = 50

    def __post_init__(self) -> None:
        sizes = (self.embedding_size, self.blocks, self.heads, self.length - 1, self.batch_size, self.epochs)
        if min(sizes) < 1:
            raise ValueError(f"every size must be at least 1 and length at least 2, got {self}")
        if self.embedding_size % self.heads:
            raise ValueError(f"{self.heads} heads do not divide an embedding_size of {self.embedding_size}")
        if not 0 <= self.dropout < 1 or not 0 < self.mask_share <= 1 or not 0 <= self.last_share <= 1:
            raise ValueError(f"0 <= dropout < 1, 0 < mask_share <= 1 and 0 <= last_share <= 1 are needed, got {self}")
        if self.learning_rate <= 0 or self.weight_decay < 0 or self.clip_norm <= 0:
            raise ValueError(f"learning_rate > 0, weight_decay >= 0 and clip_norm > 0 are needed, got {self}")

    @property
    def window(self) -> int:
        """Most clicks of a history that are looked at."""
        return self.length - 1

    def shapes(self, item_count: int) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every parameter."""
        width = self.embedding_size
        shapes: dict[str, tuple[int, ...]] = {
            EMBEDDING: (item_count, width),
            ITEM_BIAS: (item_count,),
            _MASK: (1, width),
            _POSITION: (self.length, width),
            "head_weight": (width, width),
            "head_bias": (width,),
        }
        for block in range(self.blocks):
            for name, (rows, columns) in {
                "query": (width, width),
                "key": (width, width),
                "value": (width, width),
                "mixed": (width, width),
                "hidden": (width, 4 * width),
                "output": (4 * width, width),
            }.items():
                shapes |= {f"block.{block}.{name}_weight": (rows, columns), f"block.{block}.{name}_bias": (columns,)}
        norms = [f"block.{block}.{name}" for block in range(self.blocks) for name in ("attention", "feedforward")]
        for name in ("embedding", *norms, "head"):
            shapes |= {f"{name}_scale": (width,), f"{name}_shift": (width,)}
        return shapes


class BERT4Rec(Transformer):
    """Scores an item by its bias and the product of its embedding with the mask's vector, mapped by a GELU layer.

    A layer is norm(x + dropout(attention(x))), then the same with a feedforward layer of width 4 D (GELU); every
    position looks at all others. Embeddings and mapped vectors are normalised too, which the paper's formulas leave
    out and the authors' code does. Positions are counted from the first click looked at.

    Source: Sun et al. 2019, "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from
    Transformer", arXiv:1904.06690.
    """

    kind = "bert4rec"
    settings_type = BERT4RecSettings

    @classmethod
    def fit(
        cls,
        sessions: Sessions,
        item_count: int,
        settings: BERT4RecSettings,
        generator: torch.Generator,
        on_progress: OnProgress = silent,
    ) -> Self:
        """See `Baseline.fit`; of a session longer than `length` only the end is used.

        Raises:
            ValueError: See there.
            FloatingPointError: Training diverged.
        """
        require_sessions(sessions, item_count)
        parameters = initialised(settings.shapes(item_count), _INITIAL_SCALE, generator)
        learner = cls(settings, parameters)
        dropout = dropout_of(settings.dropout, generator)
        optimizer = torch.optim.AdamW(
            parameters.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        learnt = trained(
            parameters,
            optimizer,
            sessions,
            lambda batch: learner.loss(batch, dropout, generator),
            descent=Descent(settings.batch_size, settings.epochs, settings.length, settings.clip_norm, decays=True),
            generator=generator,
            on_progress=on_progress,
        )
        return cls(settings, learnt)

    def loss(self, sessions: Histories, dropout: Dropout, generator: torch.Generator) -> Tensor:
        """Return the mean cross-entropy of the masked clicks of some sessions; the generator draws the masks."""
        sessions = sessions.latest(self.settings.length)
        rows, is_row = sessions.padded()
        masked = self._masks(sessions, is_row, generator)
        table = self._parameters[EMBEDDING]
        is_masked = torch.from_numpy(masked).to(table.device)
        vectors = self._look_round(rows, masked, is_row, dropout)[is_masked]  # [T, D]
        targets = torch.from_numpy(rows).to(table.device)[is_masked]
        return functional.cross_entropy(torch.addmm(self.item_bias, self._head(vectors), table.T), targets)

    def _masks(self, sessions: Histories, is_row: NDArray[np.bool_], generator: torch.Generator) -> NDArray[np.bool_]:
        """Return which clicks are masked, bool [B, L]: at least one of every session."""
        chance = torch.rand(is_row.shape, generator=generator, device=generator.device).cpu().numpy()
        chance[~is_row] = 2
        masked: NDArray[np.bool_] = chance < self.settings.mask_share
        sample = np.arange(len(sessions))
        none = ~masked.any(axis=1)
        masked[sample[none], chance[none].argmin(axis=1)] = True
        drawn = torch.rand(len(sessions), generator=generator, device=generator.device).cpu().numpy()
        as_answered = drawn < self.settings.last_share
        masked[as_answered] = False
        masked[sample[as_answered], sessions.lengths[as_answered] - 1] = True
        return masked

    @torch.no_grad()
    def encode(self, histories: Histories) -> Tensor:
        """Return the mapped vector of a mask behind each history, float32 [B, D]; an empty one is a mask alone."""
        histories = histories.latest(self.settings.length - 1)
        if not len(histories):
            return self.item_vectors.new_zeros(0, self.settings.embedding_size)
        return encoded_in_blocks(histories, int(histories.lengths.max()) + 1, self._mask_vectors)

    def _mask_vectors(self, histories: Histories) -> Tensor:
        # A row of any item makes room for the mask that takes its place.
        rows, is_row = _with_one_more(histories).padded()
        lanes, last = np.arange(len(histories)), histories.lengths
        masked = np.zeros_like(is_row)
        masked[lanes, last] = True
        looked = self._look_round(rows, masked, is_row, no_dropout)
        return self._head(looked[torch.from_numpy(lanes).to(looked.device), torch.from_numpy(last).to(looked.device)])

    def _look_round(
        self, rows: Integers, masked: NDArray[np.bool_], is_row: NDArray[np.bool_], dropout: Dropout
    ) -> Tensor:
        """Return a vector for each position, float32 [B, L, D], that depends on all rows but the masked ones."""
        parameters, heads = self._parameters, self.settings.heads
        device = parameters[EMBEDDING].device
        embedded = parameters[EMBEDDING][torch.from_numpy(rows).to(device)]
        embedded = torch.where(torch.from_numpy(masked).to(device).unsqueeze(2), parameters[_MASK], embedded)
        x = dropout(normalise(embedded + parameters[_POSITION][: rows.shape[1]], parameters, "embedding"))
        allowed = torch.from_numpy(is_row).to(device).unsqueeze(1)
        for block in range(self.settings.blocks):
            its = part(parameters, f"block.{block}.")
            query, key, value = (x @ its[f"{name}_weight"] + its[f"{name}_bias"] for name in ("query", "key", "value"))
            mixed = attend(query, key, value, heads=heads, allowed=allowed, dropout=dropout)
            x = normalise(x + dropout(mixed @ its["mixed_weight"] + its["mixed_bias"]), its, "attention")
            hidden = functional.gelu(x @ its["hidden_weight"] + its["hidden_bias"])
            x = normalise(x + dropout(hidden @ its["output_weight"] + its["output_bias"]), its, "feedforward")
        return x

    def _head(self, vectors: Tensor) -> Tensor:
        parameters = self._parameters
        mapped = functional.gelu(vectors @ parameters["head_weight"] + parameters["head_bias"])
        return normalise(mapped, parameters, "head")

    @property
    def item_bias(self) -> Tensor:
        """See `VectorBaseline`."""
        return self._parameters[ITEM_BIAS]


def _with_one_more(histories: Histories) -> Histories:
    """Return the histories with one more row each, 0, at the end."""
    offsets = histories.offsets + np.arange(len(histories) + 1)
    rows = np.zeros(offsets[-1], dtype=np.int64)
    rows[np.arange(len(histories.rows)) + histories.owners] = histories.rows
    return Histories(rows, offsets)

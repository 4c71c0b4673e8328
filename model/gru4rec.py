"""The network: embed an item, advance a state by one click, ask the state for the next item.

Shape letters: B sessions, N items, D embedding width, W state width, H width of one layer.
Source: Hidasi et al. 2016, arXiv:1511.06939; the reset gate acts before the recurrent product, as in Cho et al. 2014.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

Dropout = Callable[[Tensor], Tensor]
EMBEDDING = "embedding"
ITEM_BIAS = "item_bias"


@dataclass(frozen=True)
class GRU4RecSettings:
    """The shape of a network.

    Attributes:
        embedding_size: D; input and output share one item table.
        hidden_sizes: H of every GRU layer, bottom first.
        feedforward_sizes: Widths of the layers between the top GRU layer and the query; none by default.
        skip: Whether the embedding of the last click is added to the query.
        item_bias: Whether every item has a bias of its own.

    Raises:
        ValueError: The widths do not fit each other.
    """

    embedding_size: int = 128
    hidden_sizes: tuple[int, ...] = (128,)
    feedforward_sizes: tuple[int, ...] = ()
    skip: bool = True
    item_bias: bool = True

    def __post_init__(self) -> None:
        if not self.hidden_sizes:
            raise ValueError("hidden_sizes must name at least one GRU layer")
        sizes = (self.embedding_size, *self.hidden_sizes, *self.feedforward_sizes)
        if min(sizes) < 1:
            raise ValueError(f"every size must be at least 1, got {sizes}")
        last = (*self.hidden_sizes, *self.feedforward_sizes)[-1]
        if last != self.embedding_size:
            raise ValueError(
                f"the last layer has width {last} and embedding_size is {self.embedding_size}; they must be equal, "
                "as queries are compared with item embeddings (add a feedforward layer of that width)"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values that `from_dict` reads back."""
        return asdict(self) | {
            "hidden_sizes": list(self.hidden_sizes),
            "feedforward_sizes": list(self.feedforward_sizes),
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "GRU4RecSettings":
        """Read what `to_dict` wrote.

        Raises:
            ValueError: A name is unknown, or a value is of the wrong type.
        """
        try:
            return GRU4RecSettings(
                **dict(values)
                | {
                    "hidden_sizes": tuple(values["hidden_sizes"]),
                    "feedforward_sizes": tuple(values["feedforward_sizes"]),
                }
            )
        except (TypeError, KeyError) as error:
            raise ValueError(f"these are not settings of a GRU4Rec network: {error}") from error

    def shapes(self, item_count: int) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every parameter of a network with `item_count` items."""
        shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (item_count, self.embedding_size)}
        if self.item_bias:
            shapes[ITEM_BIAS] = (item_count,)
        width = self.embedding_size
        for layer, hidden in enumerate(self.hidden_sizes):
            shapes[f"gru.{layer}.input_weight"] = (width, 3 * hidden)
            shapes[f"gru.{layer}.recurrent_weight"] = (hidden, 2 * hidden)
            shapes[f"gru.{layer}.candidate_weight"] = (hidden, hidden)
            shapes[f"gru.{layer}.bias"] = (3 * hidden,)
            width = hidden
        for layer, size in enumerate(self.feedforward_sizes):
            shapes[f"feedforward.{layer}.weight"] = (width, size)
            shapes[f"feedforward.{layer}.bias"] = (size,)
            width = size
        return shapes


class GRU4Rec:
    """A network: its settings and its parameters, float32 tensors by name (`GRU4RecSettings.shapes`).

    The tensors are kept, not copied; training changes them in place.

    Raises:
        ValueError: A parameter is missing, unexpected, of a wrong shape or type, or not finite; the message names it.
    """

    def __init__(self, settings: GRU4RecSettings, parameters: Mapping[str, Tensor]) -> None:
        self.settings = settings
        self.parameters = dict(parameters)
        if EMBEDDING not in self.parameters:
            raise ValueError(f"the parameter {EMBEDDING!r} is missing")
        expected = settings.shapes(len(self.parameters[EMBEDDING]))
        for name in sorted(expected.keys() ^ self.parameters.keys()):
            raise ValueError(
                f"the parameter {name!r} is {'missing' if name in expected else 'not part of this network'}"
            )
        for name, shape in expected.items():
            _check(name, self.parameters[name], shape)

    @staticmethod
    def initialised(settings: GRU4RecSettings, item_count: int, generator: torch.Generator) -> "GRU4Rec":
        """Return an untrained network: matrices uniform within +-sqrt(6 / (rows + columns)), biases zero.

        The gates of one layer lie side by side in one tensor, and each counts as a matrix of its own.
        """
        parameters = {}
        for name, shape in settings.shapes(item_count).items():
            if len(shape) == 1:
                parameters[name] = torch.zeros(shape)
            else:
                gates = 3 if name.endswith("input_weight") else 2 if name.endswith("recurrent_weight") else 1
                parameters[name] = _uniform(shape, math.sqrt(6 / (shape[0] + shape[1] // gates)), generator)
        return GRU4Rec(settings, parameters)

    @property
    def item_count(self) -> int:
        """N, the number of items."""
        return len(self.parameters[EMBEDDING])

    @property
    def state_width(self) -> int:
        """W, the sum of the widths of all GRU layers."""
        return sum(self.settings.hidden_sizes)

    @property
    def dense_parameter_names(self) -> list[str]:
        """The parameters that every click touches: all but the tables with a row per item."""
        return [name for name in self.parameters if name not in {EMBEDDING, ITEM_BIAS}]

    def advance(self, x: Tensor, state: Tensor, dropout: Dropout | None = None) -> Tensor:
        """Return the states after one click each; `state` is left as it was.

        For every layer, with x its input and h its part of the state: z = sigmoid(x Wz + h Uz + bz),
        r = sigmoid(x Wr + h Ur + br), c = tanh(x W + (r * h) U + b), h' = (1 - z) * h + z * c.

        Args:
            x: Embeddings of the clicked items, float32 [B, D].
            state: float32 [B, W], the layers side by side, bottom first; zeros for a new session.
            dropout: Applied to a layer's output on its way into the next layer, never to the state that is carried.

        Returns:
            float32 [B, W].
        """
        layers = []
        below = x
        for layer, h in enumerate(torch.split(state, list(self.settings.hidden_sizes), dim=1)):
            hidden = self._advance_layer(layer, below, h)
            layers.append(hidden)
            below = hidden if dropout is None else dropout(hidden)
        return layers[0] if len(layers) == 1 else torch.cat(layers, dim=1)

    def _advance_layer(self, layer: int, x: Tensor, h: Tensor) -> Tensor:
        parameters, width = self.parameters, self.settings.hidden_sizes[layer]
        projected = torch.addmm(parameters[f"gru.{layer}.bias"], x, parameters[f"gru.{layer}.input_weight"])
        recurrent = h @ parameters[f"gru.{layer}.recurrent_weight"]
        update, reset = torch.sigmoid(projected[:, : 2 * width] + recurrent).chunk(2, dim=1)
        candidate = torch.tanh(
            torch.addmm(projected[:, 2 * width :], reset * h, parameters[f"gru.{layer}.candidate_weight"])
        )
        return torch.lerp(h, candidate, update)

    def query(self, state: Tensor, x: Tensor, dropout: Dropout | None = None) -> Tensor:
        """Return the vectors that are compared with item embeddings.

        The top layer's state, through the feedforward layers (tanh after each but the last), plus x where the settings
        say skip.

        Args:
            state: float32 [B, W], after the click.
            x: Embeddings of the last known item of each session, float32 [B, D].
            dropout: Applied to the top layer's state on its way out.

        Returns:
            float32 [B, D].
        """
        output = state[:, self.state_width - self.settings.hidden_sizes[-1] :]
        if dropout is not None:
            output = dropout(output)
        for layer in range(len(self.settings.feedforward_sizes)):
            if layer:
                output = torch.tanh(output)
            weight, bias = (
                self.parameters[f"feedforward.{layer}.weight"],
                self.parameters[f"feedforward.{layer}.bias"],
            )
            output = torch.addmm(bias, output, weight)
        return output + x if self.settings.skip else output

    def score_all(self, query: Tensor, rows: slice = slice(None)) -> Tensor:
        """Return the scores of all items (or of a slice of their rows), float32 [B, N], for queries float32 [B, D]."""
        table = self.parameters[EMBEDDING][rows].T
        if self.settings.item_bias:
            return torch.addmm(self.parameters[ITEM_BIAS][rows], query, table)
        return query @ table

    def with_items(
        self, item_count: int, *, generator: torch.Generator | None = None, vectors: Tensor | None = None
    ) -> "GRU4Rec":
        """Return a network with `item_count` items: the old rows unchanged, new ones appended.

        Args:
            item_count: At least as many as now.
            generator: Draws the embeddings of new items as `initialised` would.
            vectors: The embeddings of new items, float32 [item_count - N, D]; instead of `generator`.

        Raises:
            ValueError: Fewer items than now, or new rows from neither or both of `generator` and `vectors`.
        """
        added = item_count - self.item_count
        if added < 0:
            raise ValueError(f"rows are never removed: the network has {self.item_count} items, asked for {item_count}")
        if (generator is None) == (vectors is None):
            raise ValueError("give either a generator or the vectors of the new items")
        embedding = self.parameters[EMBEDDING]
        width = self.settings.embedding_size
        if vectors is None:
            assert generator is not None
            vectors = _uniform((added, width), math.sqrt(6 / (item_count + width)), generator)
        parameters = dict(self.parameters)
        parameters[EMBEDDING] = torch.cat([embedding, vectors.to(embedding)])
        if self.settings.item_bias:
            parameters[ITEM_BIAS] = torch.cat([parameters[ITEM_BIAS], embedding.new_zeros(added)])
        return GRU4Rec(self.settings, parameters)

    def to(self, device: torch.device | str) -> "GRU4Rec":
        """Return the network on a device; tensors that are there already are shared, not copied."""
        return GRU4Rec(self.settings, {name: tensor.to(device) for name, tensor in self.parameters.items()})


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound


def _check(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"the parameter {name!r} must have shape {list(shape)}, got {list(tensor.shape)}")
    if tensor.dtype != torch.float32:
        raise ValueError(f"the parameter {name!r} must be float32, got {tensor.dtype}")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"the parameter {name!r} holds values that are not finite")

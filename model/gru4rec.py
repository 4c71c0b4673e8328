"""The network: take in an item, advance a state by one click, ask the state for the next item.

Shape letters: B sessions, N items, D embedding width, E input width, W state width, H width of one layer.
Source: Hidasi et al. 2016, arXiv:1511.06939.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from model.gru4rec_settings import EMBEDDING, ITEM_BIAS, ITEM_INPUT, ITEM_TABLES, Activation, GRU4RecSettings

__all__ = ["EMBEDDING", "ITEM_BIAS", "ITEM_INPUT", "ITEM_TABLES", "Dropout", "GRU4Rec", "GRU4RecSettings"]

Dropout = Callable[[Tensor], Tensor]
_ACTIVATIONS: dict[Activation, Callable[[Tensor, float], Tensor]] = {
    "linear": lambda scores, _alpha: scores,
    "tanh": lambda scores, _alpha: torch.tanh(scores),
    "elu": lambda scores, alpha: functional.elu(scores, alpha=alpha),
    "leaky_relu": lambda scores, alpha: functional.leaky_relu(scores, negative_slope=alpha),
}


class GRU4Rec:
    """A network: its settings and its parameters, float32 tensors by name (`GRU4RecSettings.shapes`).

    The tensors are kept, not copied; training changes them in place.

    Raises:
        ValueError: A parameter is missing, unexpected, of a wrong shape or type, or not finite; the message names it.
    """

    def __init__(self, settings: GRU4RecSettings, parameters: Mapping[str, Tensor]) -> None:
        self.settings = settings
        self.parameters = dict(parameters)
        self._compared: Tensor | None = None  # item vectors as queries are compared with them, see `ready`
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
        """Return an untrained network: uniform within `GRU4RecSettings.initial_bound`, biases zero."""
        return GRU4Rec(
            settings,
            {
                name: _uniform(shape, settings.initial_bound(name, shape), generator)
                for name, shape in settings.shapes(item_count).items()
            },
        )

    @property
    def item_count(self) -> int:
        """N, the number of items."""
        return len(self.parameters[EMBEDDING])

    @property
    def state_width(self) -> int:
        """W, the sum of the widths of all GRU layers and of the trace."""
        return sum(self.settings.hidden_sizes) + self.settings.trace_width

    @property
    def item_tables(self) -> dict[str, Tensor]:
        """The parameters with a row per item, by name: those of `ITEM_TABLES` that this network has."""
        return {name: self.parameters[name] for name in ITEM_TABLES if name in self.parameters}

    @property
    def input_table(self) -> Tensor:
        """Where what the network takes in comes from, float32 [N, E]: D wide, or 3H where the input is one-hot."""
        return self.parameters[self.settings.input_table]

    def inputs(self, rows: Tensor) -> Tensor:
        """Return what the network takes in of each row, float32 [n, E]."""
        return self.as_inputs(self.input_table.index_select(0, rows))

    def as_inputs(self, vectors: Tensor) -> Tensor:
        """Return what the network takes in of rows of `input_table`, float32 [n, E]."""
        length = self.settings.input_length
        return functional.normalize(vectors, dim=1) * length if length else vectors

    @property
    def dense_parameter_names(self) -> list[str]:
        """The parameters that every click touches: all but the tables with a row per item."""
        return [name for name in self.parameters if name not in ITEM_TABLES]

    def advance(
        self, x: Tensor, state: Tensor, dropout: Dropout | None = None, *, carries_dropped: bool = False
    ) -> Tensor:
        """Return the states after one click each; `state` is left as it was.

        For every layer, with x its input and h its part of the state: z = sigmoid(x Wz + h Uz + bz),
        r = sigmoid(x Wr + h Ur + br), h' = (1 - z) * h + z * c, where the reset gate acts before the product
        c = tanh(x W + (r * h) U + b) or after it c = tanh(x W + r * (h U + d) + b), as the settings say. One-hot input
        to the bottom layer is x W itself. The trace t becomes trace_decay * t + x.

        Args:
            x: `inputs` of the clicked items, float32 [B, E].
            state: float32 [B, W], the layers side by side, bottom first, then the trace; zeros for a new session.
            dropout: Applied to a layer's output on its way into the next layer.
            carries_dropped: Whether the state that is carried is that output after the dropout, not before it.

        Returns:
            float32 [B, W].
        """
        settings = self.settings
        *layers, trace = torch.split(state, [*settings.hidden_sizes, settings.trace_width], dim=1)
        parts = []
        below = x
        for layer, h in enumerate(layers):
            hidden = self._advance_layer(layer, below, h)
            below = hidden if dropout is None else dropout(hidden)
            parts.append(below if carries_dropped else hidden)
        if settings.trace_width:
            parts.append(torch.add(x, trace, alpha=settings.trace_decay))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _advance_layer(self, layer: int, x: Tensor, h: Tensor) -> Tensor:
        parameters, width = self.parameters, self.settings.hidden_sizes[layer]
        if layer == 0 and self.settings.item_input == "one_hot":
            projected = x + parameters["gru.0.bias"]
        else:
            projected = torch.addmm(parameters[f"gru.{layer}.bias"], x, parameters[f"gru.{layer}.input_weight"])
        recurrent = h @ parameters[f"gru.{layer}.recurrent_weight"]
        if self.settings.reset_gate == "before":
            update, reset = torch.sigmoid(projected[:, : 2 * width] + recurrent).chunk(2, dim=1)
            candidate = torch.addmm(projected[:, 2 * width :], reset * h, parameters[f"gru.{layer}.candidate_weight"])
        else:
            update, reset = torch.sigmoid(projected[:, : 2 * width] + recurrent[:, : 2 * width]).chunk(2, dim=1)
            product = recurrent[:, 2 * width :] + parameters[f"gru.{layer}.candidate_bias"]
            candidate = torch.addcmul(projected[:, 2 * width :], reset, product)
        return torch.lerp(h, torch.tanh(candidate), update)

    def query(self, state: Tensor, x: Tensor, dropout: Dropout | None = None) -> Tensor:
        """Return the vectors that are compared with item embeddings.

        The top layer's state, through the feedforward layers (tanh after each but the last), plus the trace where the
        settings say skip.

        Args:
            state: float32 [B, W], after the click.
            x: `inputs` of the last known item of each session, float32 [B, E]; the trace where none is
                carried.
            dropout: Applied to the top layer's state on its way out.

        Returns:
            float32 [B, D].
        """
        output = torch.split(state, [*self.settings.hidden_sizes, self.settings.trace_width], dim=1)[-2]
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
        if not self.settings.skip:
            return output
        trace = state[:, -self.settings.trace_width :] if self.settings.trace_width else x
        return torch.add(output, trace, alpha=self.settings.skip_weight)

    def score_all(self, query: Tensor, rows: slice = slice(None)) -> Tensor:
        """Return the scores of all items (or of a slice of their rows), float32 [B, N], for queries float32 [B, D].

        They are the scores before the activation, which keeps their order: items are ranked by these, as float32 has
        one number for all large values of tanh.
        """
        bias = self.parameters[ITEM_BIAS][rows] if self.settings.item_bias else None
        if self._compared is None:
            return self.score(query, self.parameters[EMBEDDING][rows], bias)
        return self._product(query, self._compared[rows], bias)

    def score(self, query: Tensor, vectors: Tensor, bias: Tensor | None) -> Tensor:
        """Return the scores of some items before the activation, float32 [B, n].

        Args:
            query: float32 [B, D].
            vectors: Their rows of the embedding, float32 [n, D].
            bias: Theirs, float32 [n], where items have one.
        """
        return self._product(query, self.as_compared(vectors), bias)

    def as_compared(self, vectors: Tensor) -> Tensor:
        """Return rows of the embedding as queries are compared with them, float32 [n, D]."""
        return functional.normalize(vectors, dim=1) if self.settings.cosine_scale else vectors

    def as_comparing(self, query: Tensor) -> Tensor:
        """Return queries, float32 [B, D], so that a score is their product with `as_compared`, plus the item's bias."""
        scale = self.settings.cosine_scale
        return functional.normalize(query, dim=1) * scale if scale else query

    def _product(self, query: Tensor, vectors: Tensor, bias: Tensor | None) -> Tensor:
        query = self.as_comparing(query)
        return query @ vectors.T if bias is None else torch.addmm(bias, query, vectors.T)

    def ready(self) -> "GRU4Rec":
        """Return the network with all that scoring needs worked out ahead; its tensors must not change any more."""
        network = GRU4Rec(self.settings, self.parameters)
        network._compared = self.as_compared(self.parameters[EMBEDDING])
        return network

    def activated(self, scores: Tensor) -> Tensor:
        """Return scores after the activation, of any shape; these are what a loss compares and what is reported."""
        return _ACTIVATIONS[self.settings.activation](scores, self.settings.activation_alpha)

    def with_items(
        self,
        item_count: int,
        *,
        generator: torch.Generator | None = None,
        vectors: Mapping[str, Tensor] | None = None,
    ) -> "GRU4Rec":
        """Return a network with `item_count` items: the old rows unchanged, new ones appended to every item table.

        Args:
            item_count: At least as many as now.
            generator: Draws the rows of new items as `initialised` would.
            vectors: The rows of new items by the table's name, float32 [item_count - N, ...]; instead of `generator`.
                Biases may be left out and are zero then.

        Raises:
            ValueError: Fewer items than now, new rows from neither or both of `generator` and `vectors`, or `vectors`
                that lack a table, give it rows of another shape or name another.
        """
        added = item_count - self.item_count
        if added < 0:
            raise ValueError(f"rows are never removed: the network has {self.item_count} items, asked for {item_count}")
        if (generator is None) == (vectors is None):
            raise ValueError("give either a generator or the vectors of the new items")
        for name in sorted((vectors or {}).keys() - self.item_tables.keys()):
            raise ValueError(f"{name!r} is no table of this network with a row per item")
        grown = dict(self.parameters)
        for name, table in self.item_tables.items():
            shape = (item_count, *table.shape[1:])
            if generator is not None:
                rows = _uniform((added, *shape[1:]), self.settings.initial_bound(name, shape), generator)
            else:
                rows = _given_rows(name, (added, *shape[1:]), vectors or {})
            grown[name] = torch.cat([table, rows.to(table)])
        return GRU4Rec(self.settings, grown)

    def to(self, device: torch.device | str) -> "GRU4Rec":
        """Return the network on a device; tensors that are there already are shared, not copied."""
        return GRU4Rec(self.settings, {name: tensor.to(device) for name, tensor in self.parameters.items()})


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    if bound == 0:
        return torch.zeros(shape)
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound


def _given_rows(name: str, shape: tuple[int, ...], vectors: Mapping[str, Tensor]) -> Tensor:
    if name == ITEM_BIAS and name not in vectors:
        return torch.zeros(shape)
    if name not in vectors or tuple(vectors[name].shape) != shape:
        got = f"shape {list(vectors[name].shape)}" if name in vectors else "none"
        raise ValueError(f"the new rows of {name!r} must have shape {list(shape)}, got {got}")
    return vectors[name]


def _check(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"the parameter {name!r} must have shape {list(shape)}, got {list(tensor.shape)}")
    if tensor.dtype != torch.float32:
        raise ValueError(f"the parameter {name!r} must be float32, got {tensor.dtype}")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"the parameter {name!r} holds values that are not finite")

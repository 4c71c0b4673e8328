"""The shape of a network: its settings, and the name and shape of every parameter that follow from them.

Shape letters: N items, D embedding width, H width of one layer.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

EMBEDDING = "embedding"
ITEM_BIAS = "item_bias"
ITEM_INPUT = "item_input"
ITEM_TABLES = (EMBEDDING, ITEM_BIAS, ITEM_INPUT)
"""Every parameter with a row per item, in the order in which networks hold them; all others are dense."""

UNIT_INPUT = 0.1
"""Root mean square of the values of a vector that is taken in at a given length."""

ItemInput = Literal["shared", "separate", "one_hot"]
ResetGate = Literal["before", "after"]
Activation = Literal["linear", "tanh", "elu", "leaky_relu"]


@dataclass(frozen=True)
class GRU4RecSettings:
    """The shape of a network.

    A field that is left out means what it meant before there was such a field, as versions are read back from settings
    that lack it.

    Attributes:
        embedding_size: D, the width of the item vectors that queries are compared with.
        hidden_sizes: H of every GRU layer, bottom first.
        feedforward_sizes: Widths of the layers between the top GRU layer and the query; none by default.
        skip: Whether the trace of the session's input vectors is added to the query.
        skip_weight: How much of it, above 0.
        trace_decay: What the trace keeps of itself with each click, from 0 (it is the last click's vector alone) to
            below 1. A trace that keeps something is carried in the state, behind the layers.
        item_bias: Whether every item has a bias of its own.
        cosine_scale: What the cosine of query and item vector is multiplied with to be the score, above 0; 0 for scores
            that are inner products. With cosines a shared vector's length does not matter where it is taken in either:
            it is made `UNIT_INPUT` * sqrt(D).
        item_input: What the network takes in of a clicked item. `shared`: the vector that it is compared with.
            `separate`: a vector from a table of its own, [N, D]. `one_hot`: the item's row of the bottom layer's input
            weights, [N, 3H], without a product; there is no vector then that a skip could add.
        reset_gate: Whether the reset gate acts on the state `before` the recurrent product, as in Cho et al. 2014, or
            on the product `after` it, as in cuDNN and `torch.nn.GRU`.
        activation: What the scores go through at last; each keeps their order. Little is learnt from scores beyond
            about 5 under `tanh`.
        activation_alpha: Alpha of `elu`, above 0; slope below zero of `leaky_relu`, between 0 and 1.

    Raises:
        ValueError: The widths do not fit each other, or a value is none of those above.
    """

    embedding_size: int = 128
    hidden_sizes: tuple[int, ...] = (128,)
    feedforward_sizes: tuple[int, ...] = ()
    skip: bool = True
    skip_weight: float = 1.0
    trace_decay: float = 0.0
    item_bias: bool = True
    cosine_scale: float = 0.0
    item_input: ItemInput = "shared"
    reset_gate: ResetGate = "before"
    activation: Activation = "linear"
    activation_alpha: float = 0.5

    def __post_init__(self) -> None:
        self._check_widths()
        _check_choice("item_input", self.item_input, ItemInput)
        _check_choice("reset_gate", self.reset_gate, ResetGate)
        _check_choice("activation", self.activation, Activation)
        if self.item_input == "one_hot" and self.skip:
            raise ValueError("item_input one_hot has no item vector to add to the query: set skip to false")
        if not 0 < self.skip_weight < math.inf:
            raise ValueError(
                f"skip_weight must be above 0 and finite, got {self.skip_weight}; to add nothing, skip not"
            )
        if not 0 <= self.cosine_scale < math.inf:
            raise ValueError(f"cosine_scale must be 0 (no cosines) or more, and finite, got {self.cosine_scale}")
        if not 0 <= self.trace_decay < 1:
            raise ValueError(f"trace_decay must be from 0 to below 1, got {self.trace_decay}")
        if not 0 < self.activation_alpha < (1 if self.activation == "leaky_relu" else math.inf):
            raise ValueError(
                "activation_alpha must be above 0, and for leaky_relu below 1 (there it is the slope below zero), "
                f"got {self.activation_alpha}"
            )

    def _check_widths(self) -> None:
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

    @property
    def trace_width(self) -> int:
        """Width of the trace that the state carries: D, or 0 where none is carried."""
        return self.embedding_size if self.skip and self.trace_decay else 0

    @property
    def input_length(self) -> float:
        """Length that the vector of an item is given where it is taken in; 0 where it is taken as it is."""
        unit = self.cosine_scale and self.item_input == "shared"
        return UNIT_INPUT * math.sqrt(self.embedding_size) if unit else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values that `from_dict` reads back."""
        return asdict(self) | {
            "hidden_sizes": list(self.hidden_sizes),
            "feedforward_sizes": list(self.feedforward_sizes),
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "GRU4RecSettings":
        """Read what `to_dict` wrote, here or in an earlier release.

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

    @property
    def input_table(self) -> str:
        """The name of the table whose rows the network takes in."""
        return EMBEDDING if self.item_input == "shared" else ITEM_INPUT

    def shapes(self, item_count: int) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every parameter of a network with `item_count` items."""
        return self._item_shapes(item_count) | self._dense_shapes()

    def _item_shapes(self, item_count: int) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (item_count, self.embedding_size)}
        if self.item_bias:
            shapes[ITEM_BIAS] = (item_count,)
        if self.item_input == "separate":
            shapes[ITEM_INPUT] = (item_count, self.embedding_size)
        elif self.item_input == "one_hot":
            shapes[ITEM_INPUT] = (item_count, 3 * self.hidden_sizes[0])
        return shapes

    def _dense_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        width = self.embedding_size
        for layer, hidden in enumerate(self.hidden_sizes):
            if layer or self.item_input != "one_hot":
                shapes[f"gru.{layer}.input_weight"] = (width, 3 * hidden)
            if self.reset_gate == "before":
                shapes[f"gru.{layer}.recurrent_weight"] = (hidden, 2 * hidden)
                shapes[f"gru.{layer}.candidate_weight"] = (hidden, hidden)
            else:
                shapes[f"gru.{layer}.recurrent_weight"] = (hidden, 3 * hidden)
                shapes[f"gru.{layer}.candidate_bias"] = (hidden,)
            shapes[f"gru.{layer}.bias"] = (3 * hidden,)
            width = hidden
        for layer, size in enumerate(self.feedforward_sizes):
            shapes[f"feedforward.{layer}.weight"] = (width, size)
            shapes[f"feedforward.{layer}.bias"] = (size,)
            width = size
        return shapes

    def initial_bound(self, name: str, shape: tuple[int, ...]) -> float:
        """Return how far from zero an untrained value of a parameter may lie: sqrt(6 / (rows + columns)), biases 0.

        The gates of one layer lie side by side in one tensor, and each counts as a matrix of its own.

        Source: Glorot & Bengio 2010.
        """
        if len(shape) == 1:
            return 0.0
        rows, columns = shape
        if name.startswith("gru."):
            columns = self.hidden_sizes[int(name.split(".")[1])]
        elif name == ITEM_INPUT and self.item_input == "one_hot":
            columns = self.hidden_sizes[0]
        return math.sqrt(6 / (rows + columns))


def _check_choice(name: str, value: Any, choices: Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, got {value!r}")

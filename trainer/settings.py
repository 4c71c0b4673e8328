"""What an operator can set about the trainer. Read from the environment at the edge, never here."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Ge, Gt, Lt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.clicks import DEFAULT_IDLE_MS
from model.gru4rec_settings import Activation, GRU4RecSettings, ItemInput, ResetGate
from model.losses import LOSSES, Loss, LossName
from model.optimizer import Accumulator
from trainer.errors import DeviceUnavailableError
from trainer.presets import PRESETS, PresetName

Size = Annotated[int, Ge(1)]
Seconds = Annotated[float, Gt(0)]
DropRate = Annotated[float, Ge(0), Lt(1)]
Share = Annotated[float, Gt(0), Lt(1)]
MatmulPrecision = Literal["highest", "high", "medium"]


class TrainerSettings(BaseModel):
    """Settings of one trainer: the network, how it learns, when a round starts, what the gate asks.

    The defaults are for short shopping sessions; they were chosen on one week of such clicks, the last day held out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: PresetName = Field("short-sessions", description="what the clicks are like; any other setting is stronger")

    embedding_size: Size = Field(96, description="width of an item's vector")
    hidden_sizes: tuple[Size, ...] = Field((96,), description="width of every GRU layer, bottom first")
    feedforward_sizes: tuple[Size, ...] = Field((), description="widths of layers between the GRU and the items")
    skip: bool = Field(True, description="add the trace of the clicked items' vectors to the query")
    skip_weight: Annotated[float, Gt(0)] = Field(1.0, description="how much of it")
    trace_decay: DropRate = Field(
        0.6, description="share that older clicks' vectors keep with each click; 0: only the last"
    )
    item_bias: bool = Field(True, description="give every item a bias of its own")
    cosine_scale: Annotated[float, Ge(0)] = Field(
        10.0, description="scores are this many times the cosine of query and item vector; 0: their inner product"
    )
    item_input: ItemInput = Field(
        "shared", description="the clicked item's vector: shared with its output, separate, or one_hot (without vector)"
    )
    reset_gate: ResetGate = Field("before", description="whether the reset gate acts before the product or after it")
    activation: Activation = Field("linear", description="what scores go through before the loss")
    activation_alpha: Annotated[float, Gt(0)] = Field(
        0.5, description="alpha of the activation elu; slope below zero of leaky_relu"
    )

    loss: LossName = Field("cross_entropy", description="what is minimised")
    bpr_regularisation: Annotated[float, Ge(0)] = Field(1.0, description="weight of the score penalty of bpr_max")
    bpr_elu: Annotated[float, Ge(0)] = Field(0.0, description="alpha of the ELU on scores of bpr_max; 0: none")
    temperature: Annotated[float, Gt(0)] = Field(1.0, description="what info_nce divides scores by")
    label_smoothing: DropRate = Field(0.0, description="share of the target spread over all candidates (cross_entropy)")
    logq: bool = Field(
        True, description="correct scores for how often an item is a candidate (cross_entropy, info_nce)"
    )
    logq_target: bool = Field(True, description="correct the target's own score too, which is always a candidate")
    batch_size: Size = Field(64, description="sessions side by side in one mini-batch")
    backprop_steps: Size = Field(
        1, description="clicks of a session that one mini-batch follows back; 1 for short sessions"
    )
    own_session_negatives: bool = Field(
        True, description="tell a click's target from the other clicks of its session in the mini-batch too"
    )
    weight_averaging: DropRate = Field(
        0.0, description="what the averaged weights keep with each mini-batch; 0: the last weights"
    )
    negative_samples: Annotated[int, Ge(0)] = Field(512, description="sampled items shared by one mini-batch")
    sampling_alpha: Annotated[float, Ge(0)] = Field(0.5, description="items are sampled by popularity to this power")
    learning_rate: Annotated[float, Gt(0)] = Field(0.07, description="step of Adagrad")
    accumulator: Accumulator = Field("element", description="squared gradients are summed by element or by table row")
    momentum: DropRate = Field(0.0, description="share of the last step that is taken again")
    embedding_dropout: DropRate = Field(0.3, description="dropout on the clicked item's vector")
    hidden_dropout: DropRate = Field(0.3, description="dropout on the way out of the GRU")
    hidden_dropout_carried: bool = Field(
        False,
        description="carry what hidden_dropout left of a state on, as the authors' own code does",
    )
    dropout_round: DropRate | None = Field(
        None, description="takes the place of both in fine-tuning rounds, where they are not 0; none: the same"
    )
    epochs_first: Size = Field(5, description="passes over the clicks when training from scratch")
    epochs_round: Size = Field(2, description="passes over the clicks of a fine-tuning round")
    companion: bool = Field(True, description="mix what followed what, and the session's own items, into the answers")
    companion_half_life_days: Annotated[float, Gt(0)] = Field(
        45.0, description="age at which a version's pair counts are worth half to the next (days)"
    )
    idle_ms: Annotated[int, Gt(0)] = Field(DEFAULT_IDLE_MS, description="event time after which a session ends (ms)")

    window_clicks: Annotated[int, Ge(1000)] = Field(
        500_000, description="newest clicks held in memory; 75 bytes each, at most 450 and 1.25 times their ids"
    )
    round_clicks: Size | None = Field(10_000, description="new clicks that start a round; none: only the interval")
    round_interval_s: Seconds | None = Field(300.0, description="seconds between rounds; none: only the clicks")
    first_round_clicks: Size = Field(10_000, description="clicks that start the first round of a process")
    refresh_interval_s: Seconds | None = Field(
        5.0, description="seconds between refreshes of the serving version's counts and items; none: only rounds"
    )
    minimum_clicks: Size = Field(1_000, description="a round with fewer new clicks to train on is skipped")
    replay_share: Annotated[float, Ge(0)] = Field(0.25, description="older clicks trained again, per new click")
    holdout_share: Share = Field(0.2, description="newest share of the new clicks, kept back for the gate")
    holdout_clicks: Size = Field(5_000, description="most clicks kept back for the gate")
    minimum_cases: Size = Field(100, description="a round whose gate would have fewer cases is skipped")
    gate_confidence: Annotated[float, Gt(0.5), Lt(1)] = Field(0.95, description="one-sided confidence of the gate")
    gate_margin: Annotated[float, Ge(0)] = Field(
        0.01, description="how much worse, at that confidence, a candidate may be in Recall@20 and MRR@20"
    )
    auto_rollback: bool = Field(True, description="go back to its parent where a version fails on live clicks")
    rollback_cases: Size = Field(500, description="live next clicks of the first look; each further one has twice them")
    rollback_confidence: Annotated[float, Gt(0.5), Lt(1)] = Field(
        0.99, description="one-sided confidence, over all looks, that a version rolled back is worse"
    )
    rollback_margin: Annotated[float, Ge(0)] = Field(
        0.01, description="how much worse than its parent in Recall@20 a version may be on live clicks"
    )

    versions_kept: Size = Field(20, description="newest versions kept in the registry; older ones are removed")

    retry_first_s: Seconds = Field(1.0, description="wait after a failure; doubles with each further one")
    retry_longest_s: Seconds = Field(60.0, description="longest wait after a failure")
    poll_s: Seconds = Field(0.2, description="longest wait for clicks before looking at the clock again")
    lag_interval_s: Seconds = Field(10.0, description="seconds between looks at how far behind the reading is")
    lease_s: Annotated[float, Ge(6)] = Field(
        10.0, description="seconds without a sign of the trainer at work after which one that stands by takes over"
    )
    kafka_timeout_s: Seconds = Field(20.0, description="longest wait for one answer of Kafka")
    seed: Annotated[int, Ge(0)] = Field(0, description="of every random choice")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is one")
    threads: Size = Field(1, description="threads of the tensor library")
    matmul_precision: MatmulPrecision = Field(
        "highest",
        description="products of matrices in float32 (highest), or, where a GPU has units for it, TF32 or bfloat16",
    )

    @model_validator(mode="before")
    @classmethod
    def _start_from_preset(cls, given: Any) -> Any:
        return {**PRESETS.get(str(given.get("preset")), {}), **given} if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.item_input == "one_hot" and (self.skip or self.embedding_dropout):
            raise ValueError("item_input one_hot has no item vector: set skip to false and embedding_dropout to 0")
        self.network()
        if self.round_clicks is None and self.round_interval_s is None:
            raise ValueError("set round_clicks or round_interval_s, else no round ever starts")
        needed = max(self.first_round_clicks, self.round_clicks or 0, self.minimum_clicks)
        if self.window_clicks < needed:
            raise ValueError(f"window_clicks is {self.window_clicks}, but a round asks for {needed} clicks")
        if not LOSSES[self.loss].takes_log_q and not self.negative_samples:
            raise ValueError(
                f"{self.loss} needs negative_samples: the last mini-batches have no other session's target"
            )
        return self

    def network(self) -> GRU4RecSettings:
        """Return the shape of a network trained from scratch.

        Raises:
            ValueError: The widths do not fit each other, or activation_alpha does not fit the activation.
        """
        return GRU4RecSettings(
            embedding_size=self.embedding_size,
            hidden_sizes=self.hidden_sizes,
            feedforward_sizes=self.feedforward_sizes,
            skip=self.skip,
            skip_weight=self.skip_weight,
            trace_decay=self.trace_decay,
            item_bias=self.item_bias,
            cosine_scale=self.cosine_scale,
            item_input=self.item_input,
            reset_gate=self.reset_gate,
            activation=self.activation,
            activation_alpha=self.activation_alpha,
        )

    def loss_function(self) -> Loss:
        """Return the loss with its options; it ignores a log_q that it does not take."""
        return LOSSES[self.loss].with_options(
            {
                "regularisation": self.bpr_regularisation,
                "elu": self.bpr_elu,
                "temperature": self.temperature,
                "label_smoothing": self.label_smoothing,
            }
        )

    @property
    def step_transitions(self) -> int:
        """Transitions of a whole mini-batch."""
        return self.batch_size * self.backprop_steps

    def torch_device(self) -> torch.device:
        """Return where training runs.

        Raises:
            DeviceUnavailableError: `cuda` was asked for, and torch finds none.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise DeviceUnavailableError("device is cuda, but torch finds no CUDA device; set device to auto or cpu")
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def prepare_torch(self) -> None:
        """Set the tensor library's threads, for the calling thread, and its precision, for the process."""
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision(self.matmul_precision)

    def retry_wait_s(self, failures: int) -> float:
        """Return the wait after a failure that `failures` others went before; it doubles with each."""
        return min(self.retry_longest_s, self.retry_first_s * 2.0 ** min(failures, 64))

    def of_rounds(self) -> "TrainerSettings":
        """Return the settings that fine-tuning a version takes."""
        if self.dropout_round is None:
            return self
        kinds = {"embedding_dropout": self.embedding_dropout, "hidden_dropout": self.hidden_dropout}
        return self.model_copy(update={name: self.dropout_round for name, rate in kinds.items() if rate})

    def recipe(self) -> dict[str, Any]:
        """Return the settings that shape a version, as plain JSON values for a version's manifest."""
        return self.model_dump(mode="json", include=_RECIPE)


_RECIPE = {
    "loss", "bpr_regularisation", "bpr_elu", "temperature", "label_smoothing", "logq", "logq_target", "batch_size",
    "backprop_steps", "own_session_negatives", "weight_averaging", "negative_samples", "sampling_alpha",
    "learning_rate", "accumulator", "momentum", "embedding_dropout", "hidden_dropout", "hidden_dropout_carried",
    "dropout_round", "epochs_first", "epochs_round", "companion", "companion_half_life_days", "idle_ms", "replay_share",
    "holdout_share", "holdout_clicks", "matmul_precision", "seed",
}  # fmt: skip

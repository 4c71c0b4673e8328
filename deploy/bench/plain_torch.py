"""What a user of PyTorch would write in an hour: the yardstick beside our own training steps.

The same network and recipe as far as the library has them: `torch.nn.GRU` (its reset gate acts after the product),
`torch.nn.Embedding` with sparse gradients, the library's Adagrad, autograd throughout.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.batches import Step
from model.clicks import Sessions
from trainer.sampling import click_counts, log_expected, popularity_sampler
from trainer.settings import TrainerSettings


class PlainNetwork(nn.Module):
    """One or more GRU layers of one width over item vectors, which queries are compared with."""

    def __init__(self, item_count: int, settings: TrainerSettings) -> None:
        super().__init__()
        width, layers = settings.embedding_size, len(settings.hidden_sizes)
        self.embedding = nn.Embedding(item_count, width, sparse=True)
        self.bias = nn.Embedding(item_count, 1, sparse=True)
        self.gru = nn.GRU(width, width, layers, dropout=settings.hidden_dropout if layers > 1 else 0.0)
        self.drop_input, self.drop_output = nn.Dropout(settings.embedding_dropout), nn.Dropout(settings.hidden_dropout)
        nn.init.zeros_(self.bias.weight)
        nn.init.xavier_uniform_(self.embedding.weight)

    def forward(self, inputs: Tensor, candidates: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores [B, C] and the states after the click, [layers, B, H]."""
        x = self.drop_input(self.embedding(inputs))
        output, state = self.gru(x.unsqueeze(0), state)
        query = self.drop_output(output.squeeze(0)) + x
        return query @ self.embedding(candidates).T + self.bias(candidates).T, state


class PlainTorchStep:
    """Trains on one mini-batch after the other; see `trainer.fine_tune.MiniBatchStep`."""

    def __init__(self, item_count: int, sessions: Sessions, settings: TrainerSettings, device: torch.device) -> None:
        torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]  # else it warns
        self.device, self._settings = device, settings
        self._network = PlainNetwork(item_count, settings).to(device)
        self._optimizer = torch.optim.Adagrad(self._network.parameters(), lr=settings.learning_rate)
        counts = click_counts(sessions, item_count)
        self._sampler = popularity_sampler(counts, settings, torch.Generator().manual_seed(0))
        self._log_q = log_expected(counts, self._sampler.probabilities, settings).to(device)
        self.start_epoch()

    def start_epoch(self) -> None:
        """Forget the carried states."""
        settings = self._settings
        shape = len(settings.hidden_sizes), settings.batch_size, settings.embedding_size
        self._state = torch.zeros(shape, device=self.device)

    def __call__(self, step: Step) -> Tensor:
        """Train on one mini-batch; returns its loss."""
        settings = self._settings
        inputs, targets, lanes, resets = (
            torch.from_numpy(column).to(self.device) for column in (step.inputs, step.targets, step.lanes, step.resets)
        )
        candidates = torch.cat([targets, self._sampler.sample(settings.negative_samples).to(self.device)])
        state = self._state[:, lanes].masked_fill(resets.unsqueeze(1), 0)
        scores, state = self._network(inputs, candidates, state)
        self._state[:, lanes] = state.detach()
        if settings.loss == "cross_entropy":
            corrected = scores - self._log_q[candidates] if settings.logq else scores
            target = torch.arange(len(targets), device=self.device)
            loss = functional.cross_entropy(corrected, target, label_smoothing=settings.label_smoothing)
        else:
            loss = settings.loss_function()(scores, self._log_q[candidates] if settings.logq else None)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.detach()

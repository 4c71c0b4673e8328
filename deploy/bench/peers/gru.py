"""The arithmetic of the worker's network in NumPy, one click at a time: what each of the peers runs."""

import os

import numpy as np


class Gru:
    """A GRU over item vectors, whose sum with the clicked item's vector is compared with all items.

    Args:
        path: A `.npz` with the network's arrays, `item_ids` and `k`.
    """

    def __init__(self, path: str = os.environ.get("MODEL", "")) -> None:
        with np.load(path) as arrays:
            self._arrays = {name: arrays[name] for name in arrays}
        self._vectors, self._bias = self._arrays["embedding"], self._arrays["item_bias"]
        self._item_ids = self._arrays["item_ids"].tolist()
        self._rows = {item_id: row for row, item_id in enumerate(self._item_ids)}
        self._k = int(self._arrays["k"])
        self._width = self._vectors.shape[1]

    def click(self, item_id: str, state: bytes | None) -> tuple[list[str], list[float], bytes]:
        """Return the best items after a click, their scores, and the session's new state."""
        arrays, width = self._arrays, self._width
        h = np.frombuffer(state, np.float32) if state else np.zeros(width, np.float32)
        x = self._vectors[self._rows[item_id]]
        projected = x @ arrays["input_weight"] + arrays["gru_bias"]
        gates = 1 / (1 + np.exp(-(projected[: 2 * width] + h @ arrays["recurrent_weight"])))
        update, reset = gates[:width], gates[width:]
        candidate = np.tanh(projected[2 * width :] + (reset * h) @ arrays["candidate_weight"])
        h = h + update * (candidate - h)
        scores = self._vectors @ (h + x) + self._bias
        best = np.argpartition(scores, -self._k)[-self._k :]
        best = best[np.argsort(-scores[best])]
        return [self._item_ids[row] for row in best], scores[best].tolist(), h.tobytes()

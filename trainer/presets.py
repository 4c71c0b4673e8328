"""Settings that suit what people have, by name; each was chosen by measurement (see DECISIONS.md)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

PresetName = Literal["short-sessions", "large-catalogue", "long-histories"]

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # Sessions of a few clicks on some thousand items: what the settings are anyway.
        "short-sessions": {},
        # Sessions of a few clicks on tens of thousands of items, most of them rare.
        "large-catalogue": {
            "embedding_size": 192,
            "hidden_sizes": (192,),
            "batch_size": 128,
            "negative_samples": 2048,
            "sampling_alpha": 0.3,
            "cosine_scale": 15.0,
            "replay_share": 2.0,
        },
        # Users with dozens to thousands of clicks each, and no sessions to speak of.
        "long-histories": {
            "embedding_size": 128,
            "hidden_sizes": (128,),
            "skip": False,
            "cosine_scale": 0.0,
            "label_smoothing": 0.1,
            "learning_rate": 0.1,
            "batch_size": 16,
            "backprop_steps": 16,
            "own_session_negatives": False,
            "weight_averaging": 0.9995,
            "sampling_alpha": 0.3,
            "embedding_dropout": 0.2,
            "hidden_dropout": 0.2,
            "epochs_first": 12,
        },
    }
)

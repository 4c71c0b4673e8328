"""Quix Streams: a stateful function over a streaming data frame, at least once."""

import os
from typing import Any

from gru import Gru
from quixstreams import Application, State

gru = Gru()
app = Application(
    broker_address=os.environ["BROKER"],
    consumer_group="peer-quix",
    auto_offset_reset="earliest",
    processing_guarantee="at-least-once",
    state_dir=os.environ["STATE"],
)


def answer(click: dict[str, Any], state: State) -> dict[str, Any]:
    """Answer a click."""
    items, scores, hidden = gru.click(click["item_id"], state.get_bytes("hidden", default=b""))
    state.set_bytes("hidden", hidden)
    return {"items": items, "scores": scores}


clicks = app.topic(os.environ["CLICKS"], key_deserializer="str", value_deserializer="json")
answers = app.topic(os.environ["ANSWERS"], key_serializer="str", value_serializer="json")
app.dataframe(clicks).apply(answer, stateful=True).to_topic(answers)
app.run()

"""Bytewax: a stateful operator keyed by the session, with snapshots for recovery."""

import os

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from gru import Gru

gru = Gru()
BROKERS = [os.environ["BROKER"]]


def keyed(message: KafkaSourceMessage) -> tuple[str, str]:
    """Return the session and the item of a click."""
    return message.key.decode(), orjson.loads(message.value)["item_id"]


def answer(state: bytes | None, item_id: str) -> tuple[bytes, bytes]:
    """Return the new state and the answer to a click."""
    items, scores, hidden = gru.click(item_id, state)
    return hidden, orjson.dumps({"items": items, "scores": scores})


flow = Dataflow("peer")
clicks = op.input("clicks", flow, KafkaSource(BROKERS, [os.environ["CLICKS"]], batch_size=1000))
answers = op.stateful_map("answer", op.map("keyed", clicks, keyed), answer)
messages = op.map("message", answers, lambda pair: KafkaSinkMessage(pair[0].encode(), pair[1]))
op.output("answers", messages, KafkaSink(BROKERS, os.environ["ANSWERS"]))

"""Plain Faust: an agent, a table in RocksDB with its changelog, a send per answer."""

import os

import faust
import orjson
from gru import Gru

gru = Gru()
app = faust.App(
    "peer-faust",
    broker=f"kafka://{os.environ['BROKER']}",
    store="rocksdb://",
    datadir=os.environ["STATE"],
    topic_partitions=int(os.environ["PARTITIONS"]),
    consumer_auto_offset_reset="earliest",
    web_enabled=False,
)
raw = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
clicks = app.topic(os.environ["CLICKS"], **raw)
answers = app.topic(os.environ["ANSWERS"], **raw)
sessions = app.Table(
    "sessions",
    default=bytes,
    key_type=bytes,
    value_type=bytes,
    partitions=int(os.environ["PARTITIONS"]),
    options={"driver": "rocksdict"},
)


@app.agent(clicks)
async def answer(stream: faust.Stream) -> None:
    """Answer every click."""
    async for key, value in stream.items():
        items, scores, state = gru.click(orjson.loads(value)["item_id"], sessions[key])
        sessions[key] = state
        await answers.send(key=key, value=orjson.dumps({"items": items, "scores": scores}))


if __name__ == "__main__":
    app.main()

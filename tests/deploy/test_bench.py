"""What the benchmarks measure is the same work everywhere, and they report what they measured."""

import math
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry, generate_latest

from deploy.bench import costs, stream
from deploy.bench.against import FOLDER, PEERS, write_model
from deploy.bench.costs import Costs, counts_told, longest_s, measured
from deploy.bench.gaps import GARBAGE
from deploy.bench.plain_torch import PlainTorchStep
from deploy.bench.stream import Found, StreamBench
from deploy.children import Process
from deploy.commands.options import read_recipe
from deploy.errors import BrokerError
from deploy.plots import plot_latency
from deploy.settings import Settings
from model.batches import session_parallel
from model.clicks import sessionise
from model.gru4rec import GRU4Rec, GRU4RecSettings
from model.recommender import Recommender
from model.vocabulary import Vocabulary
from stream.metrics import WorkerMetrics
from tests.deploy.command_line import last_json, nextclick
from tests.trainer.click_builders import SMALL, cyclic_clicks, table_of
from trainer.settings import TrainerSettings

ITEMS, K = 200, 10
RECIPES = Path(stream.__file__).parent / "recipes"


def test_peers_give_the_answers_of_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = GRU4RecSettings(embedding_size=16, hidden_sizes=(16,))
    network = GRU4Rec.initialised(shape, ITEMS, torch.Generator().manual_seed(0))
    item_ids = [f"i{row}" for row in range(ITEMS)]
    write_model(network, item_ids, K, tmp_path / "model.npz")
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("MODEL", "")
    from gru import Gru  # noqa: PLC0415 - it is on the path from here on

    peer, recommender = Gru(str(tmp_path / "model.npz")), Recommender(network, Vocabulary(item_ids), "v")
    states, last, carried = np.zeros((1, 16), np.float32), np.array([-1]), None
    for row in [5, 9, 5, 120]:
        forward = recommender.forward(states, last, np.array([0]), np.array([row]), K)
        items, scores, carried = peer.click(f"i{row}", carried)
        assert items == [item_ids[best] for best in forward.top_rows[0]]
        np.testing.assert_allclose(scores, forward.scores[0], rtol=1e-4, atol=1e-6)
        states, last = forward.states, np.array([row])


def test_every_peer_has_its_program() -> None:
    assert sorted(PEERS) == ["bytewax", "faust", "quix"]
    assert {path.name for path in FOLDER.glob("*.py")} == {"gru.py", "bytewax_flow.py", "faust_app.py", "quix_app.py"}


def test_the_peers_want_a_real_kafka() -> None:
    with pytest.raises(BrokerError, match="--broker kafka"):
        stream.run(StreamBench(broker="embedded", against=("faust",)), Settings(), print)


def test_costs_are_those_of_the_window(tmp_path: Path) -> None:
    busy = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
    answers = iter(range(1000))
    with Process("busy", [sys.executable, "-c", busy], {}, tmp_path / "log") as process:
        time.sleep(0.1)
        found = measured(process, lambda: next(answers), lambda count, _seconds: count >= 5)
    assert found.answers == 5
    assert 0 < found.cpu_s <= found.seconds * 1.5
    assert Costs(4, 2.0, 1.0).to_dict() == {"events_per_s": 2.0, "cpu_us_per_event": 250_000.0}


def test_medians_and_multiples_are_of_the_same_run() -> None:
    def found(ours: float, theirs: float) -> Found:
        rates = {"events_per_s": 1.0, "latency_ms_p50": 1.0, "latency_ms_p99": 2.0}
        return Found(rates | {"cpu_us_per_event": ours}, {"faust": {"events_per_s": 1.0, "cpu_us_per_event": theirs}})

    asked = StreamBench(against=("faust",))
    told = stream.summary(asked, [found(10, 100), found(20, 400), found(30, 900)])
    assert (told["cpu_us_per_event"], told["spread"]["cpu_us_per_event"]) == (20, [10, 30])
    assert (told["peers"]["faust"]["times_cpu"], told["peers"]["faust"]["cpu_us_per_event"]) == (20, 400)
    assert "peers" not in stream.summary(StreamBench(), [found(1, 1)])


def test_a_curve_has_the_medians_of_each_rate_and_is_drawn(tmp_path: Path) -> None:
    def found(*p50s: float) -> Found:
        keys = ("latency_ms_p50", "latency_ms_p99", "latency_ms_p99.9")
        curve = [{"rate": 1000.0 * (place + 1), "worker_core_share": 0.2, **dict.fromkeys(keys, p50)}
                 for place, p50 in enumerate(p50s)]  # fmt: skip
        return Found(dict.fromkeys(keys, 1.0), {}, curve)

    told = stream.summary(StreamBench(curve=(1000, 2000)), [found(3, 6), found(4, 9), found(20, 7)])
    assert [(row["rate"], row["latency_ms_p50"]) for row in told["curve"]] == [(1000, 4), (2000, 7)]
    assert told["curve"][0]["spread"]["latency_ms_p50"] == [3, 20]
    plot_latency(told["curve"], tmp_path / "latency.png")
    assert (tmp_path / "latency.png").stat().st_size > 1000


@pytest.mark.parametrize("rates", ["many", "100,0", "inf"])
def test_rates_that_are_none_are_refused(rates: str) -> None:
    done = nextclick("bench", "stream", "--curve", rates)
    assert done.exit_code == 2
    assert f"expected numbers above 0 with commas, got '{rates}'" in " ".join(done.output.split())


def test_scoring_is_measured_for_every_size_and_drawn(tmp_path: Path) -> None:
    done = nextclick(
        "bench", "score", "--items", "300,900", "--batches", "1,4", "--hidden", "8", "--repeats", "2",
        "--plot", tmp_path / "scoring.png", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = last_json(done.stdout)
    assert [(row["items"], row["batch"]) for row in found["rows"]] == [(300, 1), (300, 4), (900, 1), (900, 4)]
    assert all(row["same_items"] == 1 and row["packed_us"] > 0 and row["plain_us"] > 0 for row in found["rows"])
    assert (tmp_path / "scoring.png").stat().st_size > 1000


def test_each_axis_grows_alone_and_is_drawn(tmp_path: Path) -> None:
    sizes = ("--items", "300", "--sessions", "", "--batches", "512", "--processes", "")
    done = nextclick(
        "bench", "scale", *sizes, "--hidden", "8", "--clicks", "20000", "--broker", "embedded",
        "--plot", tmp_path / "scale.png", "--json",
    )  # fmt: skip
    rows = last_json(done.stdout)["rows"]
    assert [(row["axis"], row["size"]) for row in rows] == [("items", 300), ("batches", 512)]
    assert all(row["events_per_s"] > 0 and row["cpu_us_per_event"] > 0 for row in rows)
    assert (tmp_path / "scale.png").stat().st_size > 0


def test_training_is_measured_beside_the_plain_step_and_torch() -> None:
    sizes = ("--hidden", "8", "--batch", "4", "--samples", "16", "--clicks", "1000", "--seconds", "0.1")
    done = nextclick("bench", "train", *sizes, "--repeats", "1", "--device", "cpu", "--json")
    assert done.exit_code == 0, done.output
    found = last_json(done.stdout)
    assert list(found["rows"]) == ["nextclick", "plain", "torch"]
    assert all(row["events_per_s"] > 0 for row in found["rows"].values())
    assert found["events_per_s"] == found["rows"]["nextclick"]["events_per_s"]
    assert (found["settings"]["hidden"], found["settings"]["samples"], found["settings"]["device"]) == (8, 16, "cpu")


def test_the_row_of_torch_learns_what_it_is_timed_on() -> None:
    """A yardstick that trained nothing would be fast for no reason."""
    items, settings = [f"i{row}" for row in range(12)], SMALL.model_copy(update={"device": "cpu"})
    sessions = sessionise(table_of(cyclic_clicks(items, sessions=200)))
    torch.manual_seed(1)
    step_of, losses = PlainTorchStep(len(items), sessions, settings, torch.device("cpu")), []
    for _ in range(8):
        step_of.start_epoch()
        losses += [float(step_of(step)) for step in session_parallel(sessions, settings.batch_size)]
    assert losses[0] > 2, "close to log 12, a guess"
    assert losses[-1] < 0.5


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.json")), ids=lambda path: path.stem)
def test_recipes_of_the_official_code_are_settings_of_a_plain_network(path: Path) -> None:
    network = TrainerSettings(**read_recipe(path)).network()
    assert not network.skip
    assert not network.cosine_scale


def test_sizes_that_are_no_numbers_are_refused() -> None:
    done = nextclick("bench", "score", "--items", "10,many")
    assert done.exit_code == 2
    assert "expected whole numbers above 0 with commas, got '10,many'" in " ".join(done.output.split())


def test_the_longest_is_the_bound_of_the_highest_bucket_that_grew() -> None:
    before = {0.001: 5.0, 0.01: 7.0, 0.1: 7.0, math.inf: 8.0}
    assert longest_s(before, before) == 0
    assert longest_s(before, {0.001: 6.0, 0.01: 8.0, 0.1: 8.0, math.inf: 9.0}) == 0.001
    assert longest_s(before, {0.001: 6.0, 0.01: 8.0, 0.1: 9.0, math.inf: 10.0}) == 0.1


def test_the_collections_of_a_worker_are_read_from_its_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    monkeypatch.setattr(costs, "_metrics", lambda _port: generate_latest(registry).decode())
    before = counts_told(0, GARBAGE)
    assert before[0.001] == before[math.inf] == 0
    metrics.garbage_time.observe(0.003)
    metrics.forward_time.observe(0.2)
    assert longest_s(before, counts_told(0, GARBAGE)) == 0.005

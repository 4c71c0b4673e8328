"""The same clicks and the same arithmetic in other Python stream engines: what a click costs there.

Each peer is a program of its own (`deploy/bench/peers`), written as the engine's documentation has it, with durable
state and one answer per click, and runs alone on the core that the worker had.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from confluent_kafka.admin import AdminClient, NewTopic

from deploy.bench.costs import LOOK_S, AnswerCounter, Costs, measured
from deploy.children import Process
from deploy.errors import ChildError
from model.gru4rec import GRU4Rec

FOLDER = Path(__file__).parent / "peers"
ENVIRONMENT = FOLDER / ".venv"
WARM_UP_ANSWERS = 1_000
READY_DEADLINE_S = 120.0
INSTALL_DEADLINE_S = 600.0

# What follows the interpreter; STATE stands for a new folder.
PEERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "bytewax": ("-m", "bytewax.run", "bytewax_flow", "-r", "STATE", "-s", "1", "-b", "0"),
        "quix": ("quix_app.py",),
        "faust": ("faust_app.py", "worker", "-l", "warn", "--without-web"),
    }
)
_BEFORE: Mapping[str, tuple[str, ...]] = MappingProxyType({"bytewax": ("-m", "bytewax.recovery", "STATE", "1")})


def environment_of_peers(note: Callable[[str], None]) -> Path:
    """Return the interpreter of the peers' own virtual environment, made where it is missing or of older pins.

    Raises:
        ChildError: It cannot be made; has the end of what pip said.
    """
    wanted, installed = FOLDER / "requirements.txt", ENVIRONMENT / "installed.txt"
    python = ENVIRONMENT / "bin" / "python"
    if installed.exists() and installed.read_text() == wanted.read_text():
        return python
    note("the peers' own virtual environment")
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(ENVIRONMENT)],
        [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(wanted)],
    ):
        done = subprocess.run(  # noqa: S603 - our own commands
            command, capture_output=True, text=True, check=False, timeout=INSTALL_DEADLINE_S
        )
        if done.returncode:
            raise ChildError(f"`{' '.join(command)}` failed: {(done.stdout + done.stderr)[-2000:]}")
    shutil.copy(wanted, installed)
    return python


def write_model(network: GRU4Rec, item_ids: list[str], k: int, path: Path) -> None:
    """Write a network of one layer for `peers/gru.py`."""
    parameters = {name: tensor.numpy() for name, tensor in network.parameters.items()}
    np.savez(
        path,
        embedding=parameters["embedding"],
        item_bias=parameters["item_bias"],
        input_weight=parameters["gru.0.input_weight"],
        gru_bias=parameters["gru.0.bias"],
        recurrent_weight=parameters["gru.0.recurrent_weight"],
        candidate_weight=parameters["gru.0.candidate_weight"],
        item_ids=np.array(item_ids),
        k=np.int64(k),
    )


@dataclass(frozen=True)
class Site:
    """Where the peers run.

    Attributes:
        bootstrap: Address of the broker.
        clicks: Topic whose clicks they answer.
        partitions: Of that topic.
        model: What `write_model` wrote.
        folder: For state and logs.
        cores: What they may use.
        seconds: How long each is measured.
    """

    bootstrap: str
    clicks: str
    partitions: int
    model: Path
    folder: Path
    cores: list[int]
    seconds: float


def measure(peer: str, python: Path, site: Site) -> Costs:
    """Run a peer on the clicks until it has been measured for long enough, or has answered them all.

    Raises:
        ChildError: It ended, or gave too few answers in time; has the end of its log.
    """
    topic, state = f"answers-{peer}", site.folder / peer
    state.mkdir()
    admin = AdminClient({"bootstrap.servers": site.bootstrap})
    for made in admin.create_topics([NewTopic(topic, site.partitions, 1)]).values():
        made.result(READY_DEADLINE_S)
    environment = os.environ | {
        "BROKER": site.bootstrap,
        "CLICKS": site.clicks,
        "ANSWERS": topic,
        "PARTITIONS": str(site.partitions),
        "MODEL": str(site.model),
        "STATE": str(state),
        "PYTHONPATH": str(FOLDER),
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    }

    def command(arguments: tuple[str, ...]) -> list[str]:
        places = {"STATE": str(state)} | {name: str(FOLDER / name) for name in ("quix_app.py", "faust_app.py")}
        return [str(python), *(places.get(argument, argument) for argument in arguments)]

    if peer in _BEFORE:
        subprocess.run(command(_BEFORE[peer]), check=True, env=environment, capture_output=True)  # noqa: S603
    log = site.folder / f"{peer}.log"
    with (
        AnswerCounter(site.bootstrap, topic, site.partitions) as counted,
        Process(peer, command(PEERS[peer]), environment, log, cores=site.cores) as process,
    ):
        deadline = time.monotonic() + READY_DEADLINE_S
        while counted() < WARM_UP_ANSWERS:
            process.check()
            if time.monotonic() > deadline:
                raise ChildError(f"{peer} gave {counted()} answers in {READY_DEADLINE_S:g} s:\n{process.log_tail()}")
            time.sleep(LOOK_S)
        return measured(process, counted, lambda _answers, seconds: seconds >= site.seconds)

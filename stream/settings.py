"""What an operator can set about a worker. Read from the environment at the edge, never here."""

from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, Field

from model.clicks import DEFAULT_IDLE_MS
from stream.session import StateDtype


class Topics(BaseModel):
    """Names of the topics, the same for every process of one deployment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clicks: str = Field("clicks", description="clicks in, keyed by session id")
    recommendations: str = Field("recommendations", description="answers out, keyed by session id")
    models: str = Field("models", description="which version serves (compacted, one partition)")
    dead_letters: str = Field("clicks-dead-letters", description="records that are not clicks")


class WorkerSettings(BaseModel):
    """Settings of one worker process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    app_id: str = Field("nextclick", description="consumer group; also names the sessions changelog")
    data_dir: Path = Field(Path("data/worker"), description="RocksDB state; one directory per process")
    instance_id: str | None = Field(None, description="static group member id (a StatefulSet's pod name)")
    top_k: Annotated[int, Ge(1), Le(255)] = Field(20, description="items per answer")
    batch_cap: Annotated[int, Ge(1)] = Field(1024, description="most clicks in one micro-batch")
    idle_ms: Annotated[int, Gt(0)] = Field(DEFAULT_IDLE_MS, description="event time after which a session ends (ms)")
    sweep_interval_s: Annotated[float, Gt(0)] = Field(60.0, description="seconds between sweeps of expired sessions")
    fetch_max_wait_ms: Annotated[int, Ge(1)] = Field(
        100, description="longest that the broker holds a fetch without records (ms)"
    )
    gather_ms: Annotated[int, Ge(0), Le(1000)] = Field(
        6,
        description="how long the broker gathers clicks after it has handed some over (ms; 0: not at all)",
    )
    state_dtype: StateDtype = Field(
        "float32",
        description="of the hidden vectors in session records: float32, or float16 (rounded, half the bytes)",
    )
    commit_interval_s: Annotated[float, Gt(0)] = Field(0.5, description="seconds between offset commits")
    session_timeout_s: Annotated[float, Gt(0)] = Field(10.0, description="Kafka group session timeout (seconds)")
    delivery_timeout_s: Annotated[float, Gt(0)] = Field(
        30.0, description="a delivery not acknowledged after this many seconds stops the worker"
    )
    standby_replicas: Annotated[int, Ge(0)] = Field(0, description="workers that keep a warm copy of each state")
    dead_letter_ratio: Annotated[float, Gt(0), Le(1)] = Field(
        0.5, description="the worker stops when more than this share of the last 1,000 records were dead letters"
    )
    versions_kept: Annotated[int, Ge(1)] = Field(3, description="versions kept loaded for an instant rollback")
    threads: Annotated[int, Ge(1)] = Field(1, description="threads of the tensor library")
    device: str = Field("cpu", description="where micro-batches are scored: cpu or cuda")

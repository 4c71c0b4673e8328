"""Rounds that failed: which errors mean that memory ran out, and what an operator can do about each kind."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from model.errors import (
    DamagedVersionError,
    InvalidAnnouncementError,
    RecommenderError,
    RegistryFullError,
    RegistryUnavailableError,
    UnknownVersionError,
)
from trainer.errors import KafkaUnavailableError, MemoryExhaustedError, TrainingDivergedError

_Result = TypeVar("_Result")

# torch raises a RuntimeError of its own kind only on GPUs; on a CPU the text is all that tells.
_TORCH_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")

_ANOTHER_VERSION = (
    "`nextclick models rollback VERSION` makes a whole one serve; the registry must be the one that the workers read"
)
# The more particular kinds first.
_WHAT_TO_DO: dict[type[RecommenderError], str] = {
    MemoryExhaustedError: "lower window_clicks, negative_samples or batch_size, or give the trainer more memory",
    RegistryFullError: "make room on the registry's disk; fewer versions_kept take less of it",
    RegistryUnavailableError: "is the registry there, and may the trainer write to it?",
    KafkaUnavailableError: "is Kafka running, and are address, credentials and topics right?",
    DamagedVersionError: _ANOTHER_VERSION,
    UnknownVersionError: _ANOTHER_VERSION,
    InvalidAnnouncementError: "`nextclick models promote VERSION` says anew which version serves",
    TrainingDivergedError: "if it goes on, lower learning_rate, or go back with `nextclick models rollback`",
}


def memory_exhausted(error: BaseException) -> MemoryExhaustedError | None:
    """Return what to raise instead of an error that means that memory ran out; None for any other error."""
    is_torchs = isinstance(error, RuntimeError) and any(text in str(error) for text in _TORCH_OUT_OF_MEMORY)
    if not (is_torchs or isinstance(error, MemoryError)):
        return None
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    return MemoryExhaustedError(f"the round ran out of memory: {said}")


async def in_thread(executor: Executor, work: Callable[[], _Result]) -> _Result:
    """Run work in the executor's thread.

    Raises:
        MemoryExhaustedError: Memory ran out there.
        Exception: What the work raises.
    """
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, work)
    except (MemoryError, RuntimeError) as error:
        if exhausted := memory_exhausted(error):
            raise exhausted from error
        raise


def what_to_do(error: RecommenderError) -> str:
    """Return what an operator can do where a round goes on failing."""
    return next((advice for kind, advice in _WHAT_TO_DO.items() if isinstance(error, kind)), "see the error")

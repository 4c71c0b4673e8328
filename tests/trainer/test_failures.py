import numpy as np
import pytest
import torch

from model.errors import DamagedVersionError, RecommenderError, RegistryFullError, RegistryUnavailableError
from trainer.errors import KafkaUnavailableError, MemoryExhaustedError, TrainingDivergedError
from trainer.failures import memory_exhausted, what_to_do

FAR_TOO_MUCH = 2**50


def too_much_for_torch() -> None:
    torch.empty(FAR_TOO_MUCH)


def too_much_for_numpy() -> None:
    np.empty(FAR_TOO_MUCH)


def too_much_for_the_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def too_much_for_python() -> None:
    raise MemoryError


@pytest.mark.parametrize(
    "allocate", [too_much_for_torch, too_much_for_numpy, too_much_for_the_gpu, too_much_for_python]
)
def test_memory_that_ran_out_is_told_from_any_library(allocate: object) -> None:
    assert callable(allocate)
    with pytest.raises((RuntimeError, MemoryError)) as raised:
        allocate()
    exhausted = memory_exhausted(raised.value)
    assert isinstance(exhausted, MemoryExhaustedError)
    assert "\n" not in str(exhausted)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not fit"), ValueError("out of memory"), KeyError("a")])
def test_no_other_error_counts_as_memory_that_ran_out(error: Exception) -> None:
    assert memory_exhausted(error) is None


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (MemoryExhaustedError("m"), "window_clicks"),
        (RegistryFullError("m"), "versions_kept"),
        (RegistryUnavailableError("m"), "may the trainer write"),
        (KafkaUnavailableError("m"), "is Kafka running"),
        (DamagedVersionError("v1", "hash", "m"), "models rollback"),
        (TrainingDivergedError("m"), "learning_rate"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_to_do_fits_the_kind_of_failure(error: RecommenderError, advice: str) -> None:
    assert advice in what_to_do(error)

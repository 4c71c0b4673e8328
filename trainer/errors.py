"""What can go wrong in the trainer beside what `model.errors` names, split by what the caller can do about it."""

from model.errors import RecommenderError


class KafkaUnavailableError(RecommenderError):
    """Kafka did not answer, or not as needed; trying again later may work."""


class AnotherTrainerError(RecommenderError):
    """Another trainer holds the rounds; it must end first."""


class MemoryExhaustedError(RecommenderError):
    """A round needed more memory than there is; trying again later may work."""


class TrainingDivergedError(RecommenderError):
    """The loss or a weight is no longer a finite number; the weights must be thrown away."""


class DeviceUnavailableError(RecommenderError):
    """The device that the settings ask for is not there."""

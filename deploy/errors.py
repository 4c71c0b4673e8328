"""What can go wrong at the edge: brokers, topics, replays."""

from model.errors import RecommenderError


class BrokerError(RecommenderError):
    """A local broker could not be found, started or driven; the message says what to do."""


class TopicError(RecommenderError):
    """The cluster refused to create or to describe a topic."""


class ReplayError(RecommenderError):
    """Some clicks did not arrive in the topic."""


class ServerError(RecommenderError):
    """The HTTP server cannot listen where it was told to."""


class SettingsError(RecommenderError):
    """A setting is wrong; the message names its variable."""


class RejectedVersionError(RecommenderError):
    """A version that was rejected on live clicks may serve again only where somebody insists."""


class MeasurementError(RecommenderError):
    """What was measured was over before it could be."""


class ChildError(RecommenderError):
    """A process of ours ended or did not become ready; the message has the end of its log."""

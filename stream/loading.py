"""Versions from the registry, ready to serve: read, verified, built and warmed. Slow, so off the hot path."""

from dataclasses import dataclass, replace

import numpy as np

from model.announcements import Announcement, RefreshAnnouncement
from model.errors import DamagedVersionError
from model.recommender import Played, Recommender
from model.refreshes import Refreshes
from model.registry import ModelVersion, Registry
from stream.recommendation_json import AskedBatch, recommendations_as_json

# The shapes that serving meets: a lone click, a few sessions, a full batch.
WARM_UP_CLICKS = (1, 8, 64, 256)


@dataclass(frozen=True)
class Loaded:
    """A version in memory, verified and warm.

    Attributes:
        recommender: What answers; with a refresh, its items and neighbours too.
        version: As the registry has it, for the next refresh to change.
        refresh: Name of the refresh in `recommender`; empty for none.
        refreshed_at_ms: When that was made, or else the version.
    """

    recommender: Recommender
    version: ModelVersion
    refresh: str
    refreshed_at_ms: int


class Loader:
    """Makes versions ready.

    Args:
        registry: Where they are read from.
        top_k: Items per answer, for the warm-up.
        device: Where micro-batches are scored.
    """

    def __init__(self, registry: Registry, *, top_k: int, device: str) -> None:
        self._registry = registry
        self._refreshes = Refreshes(registry.url)
        self._top_k = top_k
        self._device = device

    def load(self, announcement: Announcement, serving: Recommender | None) -> Loaded:
        """Return the announced version.

        Raises:
            DamagedVersionError: The version, or its manifest against the announcement, is not what was announced; it
                does not extend the vocabulary of its parent that serves now; or its answers are not finite.
            UnknownVersionError: The registry has no such version.
            RegistryUnavailableError: The registry cannot be read now.
        """
        name = announcement.version
        sha256 = self._registry.manifest_sha256(name)
        if sha256 != announcement.sha256:
            raise DamagedVersionError(
                name, "hash", f"the announced manifest has sha256 {announcement.sha256}, the registry's {sha256}"
            )
        version = self._registry.load(name)
        parent = serving if serving and serving.version == version.parent else None
        if parent and not version.vocabulary.is_extension_of(parent.vocabulary, first=parent.lasting_items):
            raise DamagedVersionError(name, "vocabulary", f"it does not extend that of its parent {version.parent}")
        return Loaded(self._ready(version, len(version.vocabulary)), version, "", version.created_at_ms)

    def refresh(self, announcement: RefreshAnnouncement, loaded: Loaded) -> Loaded:
        """Return the version as the announced refresh changes it.

        Raises:
            DamagedVersionError: The refresh is not what was announced or does not fit the version.
            UnknownVersionError: The registry has it no more: a newer one has taken its place.
            RegistryUnavailableError: The registry cannot be read now.
        """
        items = loaded.version.vocabulary
        refresh = self._refreshes.load(announcement.refresh, announcement.sha256, items)
        try:
            version = refresh.applied_to(loaded.version)
        except ValueError as error:
            raise DamagedVersionError(refresh.name, "shape", str(error)) from error
        return replace(
            loaded,
            recommender=self._ready(version, len(items)),
            refresh=refresh.name,
            refreshed_at_ms=refresh.created_at_ms,
        )

    def _ready(self, version: ModelVersion, lasting_items: int) -> Recommender:
        try:
            recommender = Recommender(
                version.network,
                version.vocabulary,
                version.version,
                device=self._device,
                companion=version.companion,
                lasting_items=lasting_items,
            )
        except ValueError as error:
            raise DamagedVersionError(version.version, "vocabulary", str(error)) from error
        _warm_up(recommender, self._top_k)
        return recommender


def _warm_up(recommender: Recommender, top_k: int) -> None:
    """Answer made-up clicks of every shape that serving meets, and check that the answers are finite."""
    generator = np.random.default_rng(0)
    for clicks in WARM_UP_CLICKS:
        states = np.zeros((clicks, recommender.state_width), np.float32)
        rows = generator.integers(len(recommender.vocabulary), size=clicks)
        nothing_before, played = np.full(clicks, -1), Played.anew(clicks)
        forward = recommender.forward(states, nothing_before, np.arange(clicks), rows, top_k, played=played)
        if not (np.isfinite(forward.scores).all() and np.isfinite(forward.states).all()):
            raise DamagedVersionError(recommender.version, "non-finite", "its answers to a warm-up are not finite")
        # What answers are written from is worked out when it is first asked for: here, and not under the first click.
        vocabulary = recommender.vocabulary
        asked = AskedBatch([b""] * clicks, *[[0] * clicks] * 4)
        recommendations_as_json(
            asked, forward.top_rows, forward.scores, vocabulary.json_ids, version=recommender.version, generated_at=0
        )
        _ = vocabulary.fingerprints

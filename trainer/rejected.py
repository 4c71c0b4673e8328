"""What a rejected version learned and its parent had not is not learned again: not anew, not replayed, not counted."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.errors import DamagedVersionError, UnknownVersionError
from model.registry import Registry
from trainer.window import WindowClicks


@dataclass(frozen=True)
class Span:
    """The clicks that a rejected version was made from, by partition.

    Attributes:
        begins: First offset that its parent had not learned; 0 where there is none.
        ends: First offset that it had not learned itself.
    """

    begins: Mapping[int, int]
    ends: Mapping[int, int]


def rejected_spans(registry: Registry, rejected: Iterable[str]) -> list[Span]:
    """Return what rejected versions were made from; nothing is known where a manifest or its parent's cannot be read.

    Args:
        registry: Where the versions are.
        rejected: Their names.

    Raises:
        RegistryUnavailableError: The registry cannot be read now.
    """
    spans = []
    for version in rejected:
        try:
            manifest = registry.manifest(version)
            begins = registry.manifest(manifest.parent).trained_until if manifest.parent else {}
        except (DamagedVersionError, UnknownVersionError):
            continue
        spans.append(Span(begins, manifest.trained_until))
    return spans


def misleading_clicks(window: WindowClicks, spans: Iterable[Span]) -> NDArray[np.bool_]:
    """Return for each click of the window whether a rejected version was made from it, bool [n]."""
    misleading = np.zeros(len(window), dtype=np.bool_)
    for span in spans:
        for partition, end in span.ends.items():
            if end <= window.next_offsets.get(partition, 0):  # else the topic was made anew
                is_inside = (window.offset >= span.begins.get(partition, 0)) & (window.offset < end)
                misleading |= (window.partition == partition) & is_inside
    return misleading

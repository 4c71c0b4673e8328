"""What a rejected version learned and its parent had not is not learned again, neither anew nor replayed."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from model.errors import DamagedVersionError, UnknownVersionError
from model.registry import Registry
from trainer.window import WindowClicks


def misleading_clicks(window: WindowClicks, registry: Registry, rejected: Iterable[str]) -> NDArray[np.bool_]:
    """Return for each click of the window whether a rejected version was made from it, bool [n].

    Of a version whose manifest or whose parent's cannot be read, nothing is known.

    Args:
        window: The newest clicks.
        registry: Where the versions are.
        rejected: Their names.

    Raises:
        RegistryUnavailableError: The registry cannot be read now.
    """
    misleading = np.zeros(len(window), dtype=np.bool_)
    for version in rejected:
        try:
            manifest = registry.manifest(version)
            known = registry.manifest(manifest.parent).trained_until if manifest.parent else {}
        except (DamagedVersionError, UnknownVersionError):
            continue
        for partition, end in manifest.trained_until.items():
            if end <= window.next_offsets.get(partition, 0):  # else the topic was made anew
                first = known.get(partition, 0)
                its_own = (window.offset >= first) & (window.offset < end)
                misleading |= (window.partition == partition) & its_own
    return misleading

"""What finding the best items of a catalogue costs a click: packed, and plainly with the tensor library.

Both take turns on the same vectors and queries, so that whatever else the machine does meets them alike.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deploy.bench.environment import environment
from model.catalogue import Best, Catalogue, PackedCatalogue, PlainCatalogue

_SCALE = 10.0  # of cosines, as the trainer's default has it
_BIAS = 0.3
_MIB = 1 << 20


@dataclass(frozen=True)
class ScoreBench:
    """What is measured.

    Attributes:
        items: Sizes of the catalogue.
        batches: Clicks answered at a time.
        hidden: Width of the vectors.
        k: Items of an answer.
        repeats: Turns of each; medians are shown.
        seed: Of vectors and queries.
    """

    items: Sequence[int] = (10_000, 100_000, 1_000_000)
    batches: Sequence[int] = (1, 8, 64, 512)
    hidden: int = 128
    k: int = 20
    repeats: int = 5
    seed: int = 0


def run(bench: ScoreBench, note: Callable[[str], None]) -> dict[str, Any]:
    """Measure on one thread, and return a row for each size and batch, the settings and the environment.

    Args:
        bench: What is measured.
        note: Told what happens now.

    Returns:
        `rows`, each with `items`, `batch`, `packed_us` and `plain_us` (processor time a click), `times` (plain over
        packed, the median over turns), `same_items` (share of the answers' places with the same item), `pack_s` and
        `packed_mib` (what making the packed catalogue takes).
    """
    torch.set_num_threads(1)
    rows = []
    for items in bench.items:
        note(f"{items:,} items")
        generator = torch.Generator().manual_seed(bench.seed)
        vectors = functional.normalize(torch.randn(items, bench.hidden, generator=generator), dim=1)
        bias = torch.randn(items, generator=generator) * _BIAS
        started_s = time.process_time()
        packed = PackedCatalogue(vectors, bias)
        pack_s, plain = time.process_time() - started_s, PlainCatalogue(vectors, bias)
        for batch in bench.batches:
            queries = functional.normalize(torch.randn(batch, bench.hidden, generator=generator), dim=1) * _SCALE
            costs = [
                (_cost_us(packed, queries, bench.k), _cost_us(plain, queries, bench.k)) for _ in range(bench.repeats)
            ]
            found, expected = packed.best(queries, bench.k), plain.best(queries, bench.k)
            rows.append(
                {
                    "items": items,
                    "batch": batch,
                    "packed_us": float(np.median([ours for ours, _ in costs])),
                    "plain_us": float(np.median([theirs for _, theirs in costs])),
                    "times": float(np.median([theirs / ours for ours, theirs in costs])),
                    "same_items": _same(found, expected),
                    "pack_s": pack_s,
                    "packed_mib": packed.packed_bytes / _MIB,
                }
            )
    return {"rows": rows, "settings": vars(bench), "environment": environment()}


def _cost_us(catalogue: Catalogue, queries: Tensor, k: int) -> float:
    catalogue.best(queries, k)
    started_s = time.process_time()
    catalogue.best(queries, k)
    return 1e6 * (time.process_time() - started_s) / len(queries)


def _same(found: Best, expected: Best) -> float:
    return float((found.rows == expected.rows).mean())

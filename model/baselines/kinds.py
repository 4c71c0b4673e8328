"""Every baseline by the name under which it is kept."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from model.baselines.bert4rec import BERT4Rec
from model.baselines.bpr_mf import BPRMF
from model.baselines.contract import Baseline, settings_from_dict
from model.baselines.fpmc import FPMC
from model.baselines.item_knn import ItemKNN
from model.baselines.popularity_baseline import PopularityBaseline, PopularitySettings
from model.baselines.sasrec import SASRec, SASRecSettings
from model.baselines.vmis_knn import VMISKNN

_ALL: tuple[type[Baseline], ...] = (PopularityBaseline, ItemKNN, VMISKNN, BPRMF, FPMC, SASRec, BERT4Rec)
BASELINES: Mapping[str, type[Baseline]] = {baseline.kind: baseline for baseline in _ALL}

SYSTEMS: Mapping[str, tuple[type[Baseline], Any]] = MappingProxyType(
    {kind: (baseline, baseline.settings_type()) for kind, baseline in BASELINES.items()}
    | {
        "popularity-recent": (PopularityBaseline, PopularitySettings(half_life_clicks=5_000)),
        "popularity-in-session": (PopularityBaseline, PopularitySettings(in_session=True)),
        "sasrec-sampled": (SASRec, SASRecSettings(negatives=512)),
    }
)
"""What GRU4Rec is compared with, by name: every kind with its defaults, and variants of some."""


def baseline_from_tensors(kind: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Baseline:
    """Build a baseline from what was kept of it: `kind`, `settings_to_dict(settings)` and `to_tensors()`.

    Raises:
        ValueError: The kind is unknown, or settings or tensors are not those of a baseline of this kind.
    """
    if kind not in BASELINES:
        raise ValueError(f"{kind!r} is no kind of baseline; there are {', '.join(BASELINES)}")
    baseline = BASELINES[kind]
    return baseline.from_tensors(settings_from_dict(baseline, settings), tensors)

"""What people would rather look at than read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def plot_comparison(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw Recall@20 and MRR@20 of each model with their intervals as a PNG; `rows` are those of `trainer.compare`."""
    # Here and not above: drawing takes a second to import, and only this needs it.
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    ordered = sorted(rows, key=lambda row: row["recall@20"])
    names = [row["model"] for row in ordered]
    figure, panels = plt.subplots(1, 2, sharey=True, figsize=(9, 1 + 0.4 * len(rows)), layout="constrained")
    for panel, metric in zip(panels, ("recall@20", "mrr@20"), strict=True):
        values = [row[metric] for row in ordered]
        lows, highs = zip(*(row[f"{metric}_interval"] for row in ordered), strict=True)
        errors = [
            [max(0.0, value - low) for value, low in zip(values, lows, strict=True)],
            [max(0.0, high - value) for value, high in zip(values, highs, strict=True)],
        ]
        panel.barh(names, values, xerr=errors, color="#4878a8", ecolor="#222222", capsize=3)
        panel.set_xlabel(f"{'Recall' if metric.startswith('recall') else 'MRR'}@20")
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)

"""What people would rather look at than read."""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def plot_comparison(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw Recall@20 and MRR@20 of each model with their intervals as a PNG; `rows` are those of `trainer.compare`."""
    plt = _pyplot()
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


def plot_scoring(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw what a click's scoring costs against items and batch as a PNG; `rows` are those of `deploy.bench.score`."""
    plt = _pyplot()
    figure, panels = plt.subplots(1, 2, sharey=True, figsize=(9, 4), layout="constrained")
    largest, one = max(row["batch"] for row in rows), min(row["items"] for row in rows)
    for panel, across, shown in (
        (panels[0], "items", [row for row in rows if row["batch"] == largest]),
        (panels[1], "batch", [row for row in rows if row["items"] == one]),
    ):
        for kind, colour in (("plain", "#b0703c"), ("packed", "#4878a8")):
            costs = [row[f"{kind}_us"] for row in shown]
            panel.loglog([row[across] for row in shown], costs, marker="o", color=colour, label=kind)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set(xlabel=f"items (batches of {largest:,} clicks)", ylabel="processor time a click, us")
    panels[1].set(xlabel=f"clicks of a batch ({one:,} items)")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_latency(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw latency and a click's cost against the rate as a PNG, by rows of `deploy.bench.stream` with `rate`."""
    plt = _pyplot()
    figure, (latency, cost) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    ordered = sorted(rows, key=lambda row: row["rate"])
    rates = [row["rate"] for row in ordered]
    for percent, colour in (("50", "#4878a8"), ("99", "#b0703c"), ("99.9", "#888888")):
        values = [row[f"latency_ms_p{percent}"] for row in ordered]
        latency.loglog(rates, values, marker="o", color=colour, label=f"p{percent}")
    cost.loglog(rates, [1e6 * row["worker_core_share"] / row["rate"] for row in ordered], marker="o", color="#4878a8")
    latency.set(xlabel="clicks a second", ylabel="from due to readable, ms")
    cost.set(xlabel="clicks a second", ylabel="worker's processor time a click, us")
    latency.legend(frameon=False)
    for panel in (latency, cost):
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_scale(rows: Sequence[dict[str, Any]], axes: Sequence[str], path: Path) -> None:
    """Draw a click's cost by size, and the clicks of several workers, as a PNG; an axis without rows has no panel.

    Args:
        rows: Those of `deploy.bench.scale`.
        axes: Of its rows, from left to right.
        path: Where the picture is written.
    """
    plt = _pyplot()
    measured = [axis for axis in axes if any(row["axis"] == axis for row in rows)]
    figure, panels = plt.subplots(
        1, len(measured), figsize=(3.2 * len(measured), 3.2), layout="constrained", squeeze=False
    )
    names = {"items": "items", "sessions": "sessions under way", "batches": "most clicks of a micro-batch"}
    for panel, axis in zip(panels[0], measured, strict=True):
        shown = [row for row in rows if row["axis"] == axis]
        sizes = [row["size"] for row in shown]
        if axis in names:
            panel.semilogx(sizes, [row["cpu_us_per_event"] for row in shown], marker="o", color="#4878a8")
            panel.set(xlabel=names[axis], ylabel="processor time a click, us")
        else:
            panel.plot(sizes, [row["events_per_s"] for row in shown], marker="o", color="#4878a8")
            panel.set(xlabel="workers, a core each", ylabel="clicks a second", xticks=sizes)
        panel.set_ylim(bottom=0)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_simulation(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw Recall@20 of each method, period by period, as a PNG; `rows` are those of `trainer.simulate`."""
    plt = _pyplot()
    figure, panel = plt.subplots(figsize=(9, 4.5), layout="constrained")
    for row in sorted(rows, key=lambda row: -row["recall@20"]):
        shown = [period for period in row["periods"] if period["cases"]]
        label = f"{row['method']}  {row['recall@20']:.4f}"
        panel.plot([period["period"] for period in shown], [period["recall@20"] for period in shown], label=label)
    panel.set(xlabel="period", ylabel="Recall@20")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_rounds(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw each version at its gate beside what it replaced as a PNG; `rows` are those of `deploy.version_report`."""
    plt = _pyplot()
    figure, panels = plt.subplots(2, 1, sharex=True, figsize=(9, 6), layout="constrained")
    gated = [row for row in rows if row["cases"]]
    moments = [dt.datetime.fromisoformat(row["created_at"]) for row in gated]
    for panel, metric in zip(panels, ("recall@20", "mrr@20"), strict=True):
        for side, label, colour in (("incumbent_", "what it replaced", "#b0703c"), ("", "the version", "#4878a8")):
            panel.plot(moments, [row[f"{side}{metric}"] for row in gated], marker="o", color=colour, label=label)
        panel.set_ylabel(f"{'Recall' if metric.startswith('recall') else 'MRR'}@20 at the gate")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    figure.autofmt_xdate()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _pyplot() -> Any:
    # Here and not above: drawing takes a second to import, and only plots need it.
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    return plt

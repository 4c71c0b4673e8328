"""The demo on a terminal: numbers that move, a step at each swap, a session with its recommendations."""

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from deploy.demo import DemoView

NEXT_STEPS = (
    "What to do next:",
    "  nextclick broker --kind kafka                a broker, where there is none",
    "  nextclick topics create --broker HOST:PORT   the topics",
    "  nextclick worker --broker HOST:PORT          answers clicks; metrics on port 9464",
    "  nextclick trainer --broker HOST:PORT         learns from them; metrics on port 9465",
    "  nextclick tail --broker HOST:PORT            shows the topic recommendations",
    'Clicks go to the topic clicks, with the session id as the key: {"session_id": "s1", "item_id": "i1"}',
)
SHOWN_ITEMS = 6
BAR_WIDTH = 30


def screen(view: DemoView) -> RenderableType:
    """Return the live picture of one look."""
    seen = view.seen
    serving = seen.versions[-1].version if seen.versions else "…"
    facts = Table.grid(padding=(0, 2))
    facts.add_row("clicks", f"{view.produced:,} of {view.total:,}", ProgressBar(view.total, view.produced, BAR_WIDTH))
    facts.add_row("answers", f"{seen.answers:,}", f"{seen.answers_per_s:,.0f}/s")
    facts.add_row("latency", f"p50 {seen.latency_ms[0]:.1f} ms", f"p99 {seen.latency_ms[1]:.1f} ms")
    facts.add_row("serving", f"[bold]{serving}[/]", f"{view.elapsed_s:.0f} s")
    recall = Table.grid(padding=(0, 2))
    recall.add_row("Recall@20, newest 2,000 clicks", _bar(seen.recent_recall, "green"))
    recall.add_row("  popularity on the same clicks", _bar(seen.recent_popularity_recall, "yellow"))
    if view.best_recall is not None:
        recall.add_row("  best possible on these clicks", _bar(view.best_recall, "dim"))
    return Panel(Group(facts, Text(), recall, Text(), _versions(view), Text(), _sample(view)), title="nextclick demo")


def _bar(share: float, style: str) -> Text:
    filled = round(share * BAR_WIDTH)
    return Text("█" * filled, style=style) + Text("░" * (BAR_WIDTH - filled), style="dim") + Text(f"  {share:.3f}")


def _versions(view: DemoView) -> RenderableType:
    table = Table("version", "answers", "Recall@20", "popularity", box=None, padding=(0, 2, 0, 0))
    for score in view.seen.versions:
        table.add_row(score.version, f"{score.answers:,}", f"{score.recall:.3f}", f"{score.popularity_recall:.3f}")
    return table


def _sample(view: DemoView) -> RenderableType:
    if view.seen.sample is None:
        return Text("no session of two clicks yet", style="dim")
    clicked, answer = view.seen.sample
    return Text.assemble(
        (f"session {answer.session_id}  ", "dim"),
        " → ".join(clicked),
        ("  ⇒  ", "bold"),
        "  ".join(answer.items[:SHOWN_ITEMS]),
        overflow="ellipsis",
        no_wrap=True,
    )


def show_end(console: Console, view: DemoView) -> None:
    """Print what happened and what to do next."""
    seen = view.seen
    p50, p99 = seen.latency_all_ms
    console.print(_versions(view))
    lines = (
        "",
        f"{seen.answers:,} answers to {view.produced:,} clicks, {seen.dead_letters} dead letters",
        f"latency p50 {p50:.1f} ms, p99 {p99:.1f} ms; longest gap between answers {seen.longest_gap_ms:.0f} ms",
        "",
        *NEXT_STEPS,
    )
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

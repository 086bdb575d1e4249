"""Figures, what they have to reach, and how they are shown."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Console
from rich.table import Table

Kind = Literal["at least", "at most"]


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure has to reach; with ``of_limit`` the bound is a share of the limit L."""

    kind: Kind
    bound: float
    of_limit: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the results. ``value`` is ``None`` where it could not be measured.

    ``ratio``: it is a rate of writes or reads that makes sense as a share of L.
    """

    group: str
    name: str
    value: float | None
    unit: str
    target: Target | None = None
    ratio: bool = False
    note: str = ""


def at_least(bound: float) -> Target:
    """Return a lower bound."""
    return Target("at least", bound)


def at_most(bound: float) -> Target:
    """Return an upper bound."""
    return Target("at most", bound)


def share_of_limit(bound: float) -> Target:
    """Return a lower bound as a share of L."""
    return Target("at least", bound, of_limit=True)


@dataclass
class Results:
    """The figures of one run, and L as it was measured at several moments of it."""

    figures: list[Figure] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)

    def add(self, figure: Figure) -> None:
        """Take in one more figure."""
        self.figures.append(figure)

    @property
    def limit(self) -> float | None:
        """L: the mean of its measurements, before and after what is compared with it."""
        return sum(self.limits) / len(self.limits) if self.limits else None

    def share(self, figure: Figure) -> float | None:
        """Return a figure as a share of L, where that says something."""
        if figure.value is None or self.limit is None or not figure.ratio:
            return None
        return figure.value / self.limit

    def met(self, figure: Figure) -> bool | None:
        """Return whether a figure reaches its target; ``None`` without one, or unmeasured."""
        target = figure.target
        value = self.share(figure) if target and target.of_limit else figure.value
        if target is None or value is None:
            return None
        return value >= target.bound if target.kind == "at least" else value <= target.bound

    def missed(self) -> list[Figure]:
        """Return the figures that fall short of their targets."""
        return [figure for figure in self.figures if self.met(figure) is False]

    def rows(self) -> list[tuple[str, ...]]:
        """Return group, name, figure, unit, ratio to L, target, met, note, as text."""
        return [
            (
                figure.group,
                figure.name,
                "not measured" if figure.value is None else number(figure.value),
                figure.unit,
                _share(self.share(figure)),
                _target(figure.target),
                {None: "", True: "yes", False: "**no**"}[self.met(figure)],
                figure.note,
            )
            for figure in self.figures
        ]


HEADINGS = ("", "what", "figure", "unit", "ratio to L", "target", "met", "")


def number(value: float) -> str:
    """Return a number with about three significant digits, and thousands set apart."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def show(results: Results, console: Console) -> None:
    """Print the table."""
    table = Table(*HEADINGS, title="Benchmarks", title_justify="left")
    last = None
    for group, *cells in results.rows():
        met = cells[5].replace("**no**", "[bold red]no[/]")
        table.add_row("" if group == last else group, *cells[:5], met, cells[6])
        last = group
    console.print(table)


def markdown(results: Results, machine: Sequence[tuple[str, str]], command: str) -> str:
    """Return the results as the page that is committed."""
    lines = [
        "# Results",
        "",
        f"Written by `{command}`; do not edit. Everything was measured in one run on one machine,",
        "clients, service and PostgreSQL sharing it. What each line does is said in the module of",
        "`benchmarks/` that is named like its group.",
        "",
        *(f"- {name}: {value}" for name, value in machine),
        "",
        "**L**, the limit, is what this PostgreSQL does for `pgbench` when it inserts the same",
        "three rows in one function call, without lock or checks, for 32 clients. Ratios use the",
        "mean of L before and after the part over HTTP.",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|---|---|--:|---|--:|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in _without_repeats(results.rows())),
    ]
    return "\n".join(lines) + "\n"


def _without_repeats(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    last, shown = None, []
    for group, *cells in rows:
        shown.append(("" if group == last else group, *cells))
        last = group
    return shown


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.2f}"


def _target(target: Target | None) -> str:
    if target is None:
        return ""
    sign = "≥" if target.kind == "at least" else "≤"
    return f"{sign} {target.bound:.2f} L" if target.of_limit else f"{sign} {number(target.bound)}"

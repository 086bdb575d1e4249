"""``python -m benchmarks``: everything in one run on one machine."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import (
    append,
    clinic,
    export,
    http,
    imports,
    limit,
    machine,
    matching,
    projection,
    results,
    sealing,
    search_http,
    sync,
    sync_peers,
    verify,
)
from benchmarks.bench import Bench, started

_RESULTS = Path(__file__).with_name("RESULTS.md")


# In this order: append and http are held against the limit, which stands before and after http.
PARTS: dict[str, Callable[[Bench], None]] = {
    "limit": lambda bench: limit.run(bench, "before HTTP"),
    "append": append.run,
    "sealing": sealing.run,
    "http": http.run,
    "clinic": clinic.run,
    "projection": projection.run,
    "imports": imports.run,
    "verify": verify.run,
    "export": export.run,
    "search": search_http.run,
    "matching": matching.run,
    "sync": sync.run,
}


def main(
    only: Annotated[
        str, typer.Option(help=f"Parts, separated by commas, of: {', '.join(PARTS)}.")
    ] = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="A smoke test: short, and no figure means anything.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="Where to write the page. [default: RESULTS.md, of a whole run only]"),
    ] = None,
    install_peers: Annotated[
        bool,
        typer.Option("--install-peers", help="Only install what `sync` is compared with."),
    ] = False,
) -> None:
    """Measure, print a table, and write benchmarks/RESULTS.md."""
    if install_peers:
        sync_peers.install()
        return
    console = Console(width=None if Console().is_terminal else 200)
    chosen = [name.strip() for name in only.split(",") if name.strip()] or list(PARTS)
    unknown = set(chosen) - PARTS.keys()
    if unknown:
        raise typer.BadParameter(f"there is no part named {', '.join(sorted(unknown))}")
    if "append" in chosen and "limit" not in chosen:
        chosen.append("limit")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is stopped
    with started(console, quick=quick) as bench:
        described = machine.describe(bench)
        for name, part in PARTS.items():
            if name in chosen:
                part(bench)
    results.show(bench.results, console)
    if output is None and not quick and not only:
        output = _RESULTS
    if output is not None:
        output.write_text(results.markdown(bench.results, described, "make bench"))
        console.print(f"written to {output}")
    missed = bench.results.missed()
    if missed and not quick:
        console.print(f"{len(missed)} target(s) missed", style="bold red")


if __name__ == "__main__":
    typer.run(main)

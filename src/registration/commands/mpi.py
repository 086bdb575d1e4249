"""`registration mpi`: measure, train and run the matcher on files."""

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from registration.commands import CommandError, app
from registration.commands.progress import progress_bars

if TYPE_CHECKING:
    from registration.mpi.model import Model

mpi = typer.Typer(
    help="Find records of the same person in files; measure and train the matcher.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(mpi, name="mpi")

_MODEL = (
    "A model file as `registration mpi train` writes it, or `default`: the one that comes with "
    "the program."
)


@mpi.command()
def evaluate(
    dataset: Annotated[
        str,
        typer.Option(
            metavar="febrl3|febrl3-no-ssn|febrl4|FILE", help="A data set, or FHIR NDJSON."
        ),
    ],
    splink: Annotated[bool, typer.Option("--splink/--no-splink", help="Run Splink too.")] = True,
    model: Annotated[
        Path | None,
        typer.Option(
            help=f"Measure a model as it is, its threshold of `probable` too. {_MODEL} "
            "[default: train one]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Measure the matcher where it is known who is who, and Splink beside it.

    People are split into two halves. On the first one the model is trained without the truth, and
    the truth chooses a threshold; precision, recall and F1 are of the second. True pairs that are
    no candidates, since they share no block key, count as missed. Splink is trained on the same
    half, weighs the same candidate pairs and gets its threshold in the same way.

    febrl3, febrl3-no-ssn (without its soc_sec_id) and febrl4 need the extra registration[eval],
    Splink needs registration[mpi].

    A file says which lines are the same person by a meta.tag of the system
    urn:example:sample-truth with the same code, as `registration sample` writes it, or by an
    identifier with a value like rec-12-org or rec-12-dup-0, as FEBRL names its records; matching
    sees neither.
    """
    from registration.commands.mpi_data import load
    from registration.commands.mpi_evaluate import measure

    with progress_bars() as advance:
        data, left_out = load(dataset)
        given = None if model is None else _model(model)
        measured = measure(dataset, data, splink=splink, model=given, told=advance)
    _say_left_out(left_out)
    typer.echo("\n".join(measured.lines()))


@mpi.command()
def train(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="FHIR R4 Patients, one a line.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the model goes.")],
    name: Annotated[str, typer.Option(help="The name of the model.")] = "trained",
    match: Annotated[
        float | None,
        typer.Option(
            min=1e-9,
            max=0.5,
            help="The probability that two records taken at random are the same person. "
            "[default: estimated]",
            show_default=False,
        ),
    ] = None,
    guess: Annotated[
        float,
        typer.Option(
            min=0.01,
            help="How many pairs the program's own guess of how often things differ counts for. "
            "More where the file shows fewer kinds of errors than there are.",
        ),
    ] = 1.0,
    rarest: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.1,
            help="No family or given name counts as rarer than this: for a model that is to serve "
            "people whose names the file has not.",
        ),
    ] = 0.0,
    by_truth: Annotated[
        bool,
        typer.Option(
            "--truth/--no-truth",
            help="Choose thresholds by who is who, where the file says it. Without: by the "
            "model's own probabilities.",
        ),
    ] = True,
) -> None:
    """Estimate a model from records of which nobody need know who is who.

    u from random pairs, m by expectation maximisation on pairs that share a block key. The same
    file gives the same model. Frequencies of common names, places and postal codes go into the
    model, those of values that fewer than 20 records hold do not.

    Thresholds: where the file says who is who (see `registration mpi evaluate --help`), probable
    gives the best F1 and certain a precision of 0.9999. Where not, they are probabilities:
    certain 0.9999, probable 0.99, possible 0.5.
    """
    from registration.commands.mpi_train import trained

    with progress_bars() as advance:
        model, left_out = trained(
            file,
            name,
            guess=guess,
            match=match,
            rarest=rarest,
            by_truth=by_truth,
            told=advance,
        )
    try:
        output.write_bytes(model.dump())
    except OSError as error:
        raise CommandError(f"cannot write {output}: {error.strerror}") from error
    _say_left_out(left_out)


@mpi.command()
def link(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="FHIR R4 Patients, one a line.")],
    model: Annotated[Path, typer.Option(help=_MODEL)] = Path("default"),
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="[default: standard output]", show_default=False),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="How many processes. [default: one a core]", show_default=False),
    ] = None,
) -> None:
    """Find the pairs of a file that may be the same person; nothing is stored anywhere.

    Writes NDJSON, one pair a line: lines (the numbers of both among the lines that hold something,
    from 1), ids (of the resources), score (the probability), weight (bits), grade (certain,
    probable, possible) and agreement (bits by field). A summary goes to standard error.
    """
    from registration.commands.mpi_link import link as run

    chosen = _model(model)
    # an output that is there stays as it is until the new one is whole; it may be the input
    partial = output and output.with_name(f"{output.name}.part")
    try:
        with ExitStack() as stack:
            target = stack.enter_context(partial.open("wb")) if partial else sys.stdout.buffer
            advance = stack.enter_context(progress_bars())
            summary = run(file, chosen, target, workers or os.cpu_count() or 1, advance)
            target.flush()
        if partial and output:
            partial.replace(output)
    except BrokenPipeError:
        # whoever read had enough; what is left in the buffer goes nowhere on the way out
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit from None
    except OSError as error:
        raise CommandError(f"cannot write {output or 'the output'}: {error.strerror}") from error
    typer.echo(str(summary), err=True)


def _model(path: Path) -> "Model":
    from registration.mpi.model import Model, ModelError

    try:
        return Model.default() if path == Path("default") else Model.load(path)
    except ModelError as error:
        raise CommandError(str(error)) from error


def _say_left_out(lines: int) -> None:
    if lines:
        typer.echo(f"{lines} lines left out: no patient that could be registered", err=True)

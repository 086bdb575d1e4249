"""The commands of the `registration` program, one module each.

A module registers its command on `app`; `registration.cli` lists the modules. What a command
needs it imports when it runs, so that `--help` and `token` stay quick.
"""

import typer

app = typer.Typer(
    name="registration",
    help="An event-sourced patient registration service. Settings come from options, then from "
    "REGISTRATION_* environment variables, then from defaults.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain text: it wraps, pipes and keeps its square brackets
    pretty_exceptions_enable=False,  # its tracebacks show local variables: patient data
    context_settings={"help_option_names": ["-h", "--help"]},
)


class CommandError(RuntimeError):
    """A command cannot do its work, and the message tells its user why. Exit code 2."""

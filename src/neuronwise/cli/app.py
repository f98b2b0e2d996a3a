"""The command ``neuronwise`` and its commands."""

from __future__ import annotations

from typing import Annotated

import typer

import neuronwise
from neuronwise.cli import (
    ablate,
    check,
    demo,
    design,
    facts,
    monosemanticity,
    observe,
    query,
    report,
    sites,
)
from neuronwise.cli.running import EXIT_CODES, show_tracebacks

__all__ = ["app", "main"]

_EPILOG = "\n\n".join(
    (
        "A first walk: neuronwise demo. Then, step by step:\n"
        "$ neuronwise sites stories260k\n"
        "$ neuronwise observe stories260k stories --out activity\n"
        "$ neuronwise report activity",
        "Exit codes:\n" + "\n".join(f"{code:>5}  {meaning}" for code, meaning in EXIT_CODES.items()),
    )
)

app = typer.Typer(
    name="neuronwise",
    help="Find, watch and change the neurons of any PyTorch model.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"neuronwise {neuronwise.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[
        bool,
        typer.Option("--debug", envvar="NEURONWISE_DEBUG", help="Show the traceback of an error as well."),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version, and end.")
    ] = False,
) -> None:
    show_tracebacks(debug)


def _epilog(examples: tuple[str, ...]) -> str:
    return "\n".join(["Examples:", *(f"$ {example}" for example in examples)])


for _module in (demo, sites, observe, query, report, ablate, check):
    _name = _module.__name__.rpartition(".")[2]
    app.command(_name, epilog=_epilog(_module.EXAMPLES))(getattr(_module, _name))

_GROUPS = (
    (
        "facts",
        facts,
        "The neurons of facts: locate them, map them, switch them off, and edit what a model knows.",
    ),
    (
        "design",
        design,
        "Neurons for a table: find their formula, build a network of them, see if it is worth it.",
    ),
    (
        "monosemanticity",
        monosemanticity,
        "Does each neuron stand for one thing? Measure it, and audit what inhibits it in training.",
    ),
)
for _group, _module, _help in _GROUPS:
    _commands = typer.Typer(
        help=_help,
        no_args_is_help=True,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for _name, _command, _examples in _module.COMMANDS:
        _commands.command(_name, epilog=_epilog(_examples))(_command)
    app.add_typer(_commands, name=_group)


def main() -> None:
    """Run the command line of this process; the entry point ``neuronwise``."""
    app(prog_name="neuronwise")

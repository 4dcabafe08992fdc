"""The command line: options in, one call, lines and an exit code out; no logic."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from typing import Annotated, Any, cast

import typer

from cellseg3d_dist import __version__
from cellseg3d_dist.cli import comparison, evaluation, images, models, runs, training, tuning
from cellseg3d_dist.errors import CellSegError

app = typer.Typer(
    name="cellseg3d-dist",
    help="Find and measure every cell in large 3D microscopy, block by block.",
    epilog="Exit codes: 0 done, 2 bad input or option, 3 some blocks failed (resume OUT goes "
    "on), 4 disk, cluster or device failed, 130 and 143 stopped by a signal.",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)
# typer is built on click, or on a copy of it that it brings along
_UsageError = cast(type[Any], typer.BadParameter.__mro__[1])
_ClickError = cast(type[Any], typer.BadParameter.__mro__[2])

for _command in (
    runs.segment,
    runs.resume,
    runs.relabel,
    runs.status,
    runs.plan,
    images.info,
    images.convert,
    runs.report,
    tuning.tune,
    evaluation.evaluate,
    comparison.compare,
    training.train,
    images.phantom,
    images.demo,
):
    app.command()(_command)
app.add_typer(models.app)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"cellseg3d-dist {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; errors become one line on stderr and an exit code."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    # libraries log what the error line already says; runs log to their own files
    logging.getLogger().addHandler(logging.NullHandler())
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run with these arguments and return the exit code."""
    command: Any = typer.main.get_command(app)
    try:
        # not its main(), which has exit codes of its own for signals and closed pipes
        with command.make_context("cellseg3d-dist", list(arguments or ["--help"])) as context:
            command.invoke(context)
        sys.stdout.flush()
        return 0
    except typer.Exit as error:
        return error.exit_code if arguments else 2
    except _ClickError as error:
        return _fail(_with_help(error), 2)
    except CellSegError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt as error:
        number = int(getattr(error, "signal_number", signal.SIGINT))
        go_on = getattr(error, "go_on", "")
        text = f"stopped by {signal.Signals(number).name}."
        if go_on:
            text += f" {getattr(error, 'kept', 'Finished blocks are kept')}; {go_on}"
        return _fail(text, 128 + number)
    except BrokenPipeError:
        # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _with_help(error: Any) -> str:
    text = " ".join(error.format_message().split())
    if isinstance(error, _UsageError) and error.ctx is not None:
        text = text if text[-1:] in ".?!" else f"{text}."
        text += f" See: {error.ctx.command_path} --help"
    return text


def _fail(text: str, code: int) -> int:
    """One line: what is in a path or key may hold anything."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    typer.echo(f"error: {shown}", err=True)
    return code

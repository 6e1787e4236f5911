"""The command line: parsing and printing only. Each command is a module with SUMMARY, EXAMPLE, `arguments`, `run`."""

import signal
import sys
import warnings
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from gmsop.cli import benchmark, convert, data, demo, evaluate, models, predict, prepare, recipes, report, train
from gmsop.cli.console import err
from gmsop.errors import GmsopError, TrainingWarning, UnknownNameError

COMMANDS: dict[str, Any] = {
    "models": models,
    "recipes": recipes,
    "train": train,
    "evaluate": evaluate,
    "report": report,
    "predict": predict,
    "prepare": prepare,
    "data": data,
    "convert": convert,
    "benchmark": benchmark,
    "demo": demo,
}


class Parser(ArgumentParser):
    """Of an option that does not exist it names the nearest, in place of all there are."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].split()
        options = [word.partition("=")[0] for word in unknown if word.startswith("--")]
        if not options:
            super().error(message, ex)
        known = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        for option in options:
            err.print(f"gmsop: error: {UnknownNameError.of('option', option, known)}", markup=False)
        command = self.prog.replace(" [options]", "")
        err.print(f"all options: {command} --help", markup=False)
        self.exit(2)


class Help(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Keeps the example on a line of its own."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0 done, 1 an error, 2 a wrong command line, 130 interrupted."""
    argv = [_underscored(word) for word in (sys.argv[1:] if argv is None else argv)]
    description = "Second-order pooling and gated mixtures of it, for PyTorch."
    parser = Parser(prog="gmsop", description=description, formatter_class=Help, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=_version())
    try:
        commands = parser.add_subcommands(dest="command", metavar="COMMAND")
        for name, command in COMMANDS.items():
            text = f"{command.SUMMARY}\n\nexample:\n  {command.EXAMPLE}"
            sub = Parser(description=text, formatter_class=Help, allow_abbrev=False)
            # All words are looked at beforehand: a recipe named on the command line sets the defaults of its options.
            command.arguments(sub, argv[1:] if argv[:1] == [name] else [])
            commands.add_subcommand(name, sub, help=command.SUMMARY)
        args = parser.parse_args(argv)
        with warnings.catch_warnings():
            _print_own_warnings()
            return COMMANDS[args.command].run(args[args.command]) or 0
    except GmsopError as error:
        err.print(f"gmsop: error: {error}", markup=False)
        return 1
    except OSError as error:  # a path that is too long, or may not be looked into
        err.print(f"gmsop: error: {error}", markup=False)
        return 1
    except KeyboardInterrupt as stop:
        err.print(": ".join(["gmsop: interrupted", *map(str, stop.args)]), markup=False)
        return 128 + getattr(stop, "signum", signal.SIGINT)


def _underscored(word: str) -> str:
    """Options may be written with hyphens, too: --class-order is --class_order."""
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else word


def _version() -> str:
    from gmsop import __version__

    return f"gmsop {__version__}"


def _print_own_warnings() -> None:
    """gmsop's own warnings are for the user: each time, in one line, in red."""
    usual = warnings.showwarning

    def show(message: Any, category: type[Warning], filename: str, *rest: Any, **more: Any) -> None:
        if category.__module__.startswith("gmsop."):
            err.print(f"gmsop: warning: {message}", markup=False, style="bold red")
        else:
            usual(message, category, filename, *rest, **more)

    warnings.showwarning = show
    warnings.simplefilter("always", TrainingWarning)

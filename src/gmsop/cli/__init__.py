"""Parse the command line and print; nothing else. Each command is a file of `commands` that describes itself."""

import os
import signal
import sys
import warnings
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from gmsop.cli import commands
from gmsop.cli.printing import err
from gmsop.errors import GmsopError, GmsopWarning, UnknownNameError


def command_names() -> list[str]:
    """Return the names of all commands, which are those of their files."""
    return [found.name for found in iter_modules(commands.__path__)]


def command(name: str) -> Any:
    """Return the module of a command: SUMMARY, EXAMPLE, `arguments` and `run`."""
    return import_module(f"gmsop.cli.commands.{name}")


class Parser(ArgumentParser):
    """Answers an option that does not exist with the nearest that do, instead of all there are."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the error and exit with status 2."""
        unknown = message.partition("unrecognized arguments: ")[2].split()
        options = [word.partition("=")[0] for word in unknown if word.startswith("--")]
        if not options:
            super().error(message, ex)
        known = [
            name
            for action in self._actions
            for name in action.option_strings
            if name.startswith("--") and name[-1] != "+"
        ]
        for option in options:
            err.print(f"gmsop: error: {UnknownNameError.of('option', option, known)}", markup=False)
        own = self.prog.replace(" [options]", "")
        err.print(f"all options: {own} --help", markup=False)
        self.exit(2)


class Help(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Keeps the example on a line of its own."""


def new_parser(summary: str, example: str) -> Parser:
    """Return the empty parser of a command, or of one of its subcommands."""
    return Parser(description=f"{summary}\n\nexample:\n  {example}", formatter_class=Help, allow_abbrev=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0 done, 1 an error, 2 a wrong command line, 128 + N a signal N."""
    _make_streams_safe()
    if problem := _trouble():
        err.print(f"gmsop: error: {problem}", markup=False)
        return 1
    argv = [_underscored(word) for word in (sys.argv[1:] if argv is None else argv)]
    description = "Second-order pooling and gated mixtures of it, for PyTorch."
    parser = Parser(prog="gmsop", description=description, formatter_class=Help, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=_version())
    try:
        subcommands = parser.add_subcommands(dest="command", metavar="COMMAND")
        named = [name for name in command_names() if argv[:1] == [name]]
        for name in named or command_names():  # if one command is named, the others are not imported
            module = command(name)
            sub = new_parser(module.SUMMARY, module.EXAMPLE)
            subcommands.add_subcommand(name, sub, help=module.SUMMARY)
            if named:
                # `arguments` sees all words, because a recipe on the command line sets the defaults of its options.
                module.arguments(sub, argv[1:])
        if not argv:
            parser.print_help(sys.stderr)
            return 2
        if not named and not argv[0].startswith("-"):
            err.print(f"gmsop: error: {UnknownNameError.of('command', argv[0], command_names())}", markup=False)
            err.print(f"all commands: {', '.join(command_names())}", markup=False)
            return 2
        args = parser.parse_args(argv)
        with warnings.catch_warnings():
            _print_own_warnings()
            return command(args.command).run(args[args.command]) or 0
    except GmsopError as error:
        err.print(f"gmsop: error: {error}", markup=False)
        return 1
    except BrokenPipeError:  # who read the output, such as `head`, has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - else Python would complain at its end
        return 128 + 13
    except OSError as error:  # a path may be too long, or closed to the user
        err.print(f"gmsop: error: {error}", markup=False)
        return 1
    except KeyboardInterrupt as stop:
        err.print(": ".join(["gmsop: interrupted", *map(str, stop.args)]), markup=False)
        return 128 + getattr(stop, "signum", signal.SIGINT)


def _make_streams_safe() -> None:
    """See to it that printing cannot fail: by characters that cannot be encoded, or by a stream that is closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _trouble() -> str:
    """Return in words why no library would start here, or ""."""
    try:
        os.getcwd()  # noqa: PTH109
    except OSError:
        return "the working directory is not there any more; change to another"
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "SLURM_LOCALID"):
        if not (value := os.environ.get(name, "0") or "0").isdecimal():
            return f"{name} in the environment is {value!r}, no number; unset it"
    return ""


def _underscored(word: str) -> str:
    """Replace hyphens in an option's name by underscores, so that --class-order is --class_order."""
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else word


def _version() -> str:
    from gmsop import __version__

    return f"gmsop {__version__}"


def _print_own_warnings() -> None:
    """Print gmsop's own warnings, which are for the user: each time, in one line, in red."""
    usual = warnings.showwarning

    def show(message: Any, category: type[Warning], filename: str, *rest: Any, **more: Any) -> None:
        if category.__module__.startswith("gmsop."):
            err.print(f"gmsop: warning: {message}", markup=False, style="bold red")
        else:
            usual(message, category, filename, *rest, **more)

    warnings.showwarning = show
    warnings.simplefilter("always", GmsopWarning)

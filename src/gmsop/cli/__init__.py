"""Parse the command line and print; nothing else. Each command is a file of `commands` that describes itself."""

import os
import signal
import sys
import traceback
import warnings
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from gmsop.cli import commands
from gmsop.cli.printing import err, out
from gmsop.errors import ConfigError, GmsopError, GmsopWarning, UnknownNameError
from gmsop.utils import verbosity
from gmsop.utils.text import open_text
from gmsop.utils.yaml_files import load_yaml


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


GROUPS = {
    "look": "Does it help?",
    "train": "Prepare and train",
    "measure": "Measure",
    "use": "Use a model",
    "about": "This installation",
}
"""What one wants to do, in the order of `gmsop --help`; each command's file says where it belongs."""


def overview() -> str:
    """Return what `gmsop --help` prints: every command on one line, by what one wants to do."""
    lines = ["usage: gmsop COMMAND [options]", "", "Second-order pooling and gated mixtures of it, for PyTorch."]
    modules = {name: command(name) for name in command_names()}
    for group, title in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:11}{module.SUMMARY}" for name, module in modules.items() if group == module.GROUP]
    return "\n".join(
        [
            *lines, "", "gmsop COMMAND --help has the options and an example. With every command:",
            "  --config FILE, --print_config   options from a YAML file; print one with all values",
            "  --quiet, --verbose              no progress and no notes; tracebacks and libraries' warnings, too",
            "  --version                       (alone) say gmsop's version",
            "Exit status: 0 done, 1 an error, 2 a wrong command line, 128 + N stopped by signal N.",
        ]
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0 done, 1 an error, 2 a wrong command line, 128 + N a signal N."""
    _make_streams_safe()
    if problem := _trouble():
        err.print(f"gmsop: error: {problem}", markup=False)
        return 1
    argv = [_underscored(word) for word in (sys.argv[1:] if argv is None else argv)]
    if argv in (["--help"], ["-h"]):
        out.print(overview(), markup=False)
        return 0
    verbosity.set(quiet="--quiet" in argv, verbose="--verbose" in argv)
    argv = [word for word in argv if word not in ("--quiet", "--verbose")]
    parser = Parser(prog="gmsop", formatter_class=Help, allow_abbrev=False)
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
                module.arguments(sub, with_config(argv[1:]))
                sub.add_argument(
                    "--config", action="config", help="YAML file of options; those on the command line override it"
                )
                positional = [str(a.metavar or a.dest).upper() for a in sub._actions if not a.option_strings]
                sub.usage = " ".join(["gmsop", name, *positional, "[options]"])
        if not argv:
            err.print(overview(), markup=False)
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
        if verbosity.verbose:
            traceback.print_exc()
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


def with_config(argv: Sequence[str]) -> list[str]:
    """Return the words of a command line with those of its `--config` file before them.

    Some options, such as a recipe, set the defaults of others, and must be known before these are parsed.

    Raises:
        ConfigError: the file cannot be read.
    """
    files = [word.partition("=")[2] for word in argv if word.startswith("--config=")]
    files += [after for word, after in pairwise(argv) if word == "--config"]
    words: list[str] = []
    for file in files:
        try:
            with open_text(Path(file)) as stream:
                values = load_yaml(stream.read(), file)
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"--config {file}: cannot be read ({error})") from error
        if not isinstance(values, dict):
            raise ConfigError(f"--config {file}: holds no options (name: value)")
        words += [f"--{key}={value}" for key, value in values.items() if isinstance(value, str)]
    return [*words, *argv]


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
    if verbosity.verbose:
        warnings.simplefilter("default")
    warnings.simplefilter("always", GmsopWarning)

"""`gmsop completion` prints what a shell needs to complete gmsop's commands and options."""

from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace

GROUP = "about"
SUMMARY = "Print a script by which bash, zsh or fish completes commands and options."
EXAMPLE = "gmsop completion bash > ~/.local/share/bash-completion/completions/gmsop"

_BASH = """\
_gmsop() {
    local current="${COMP_WORDS[COMP_CWORD]}"
    local words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="@COMMANDS@ --help --version"
    elif [[ "$current" == -* ]]; then
        case "${COMP_WORDS[1]}" in
@CASES@
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    if [ ${#COMPREPLY[@]} -eq 0 ] && [[ "$current" != -* ]]; then
        COMPREPLY=($(compgen -f -- "$current"))
    fi
}
complete -o filenames -F _gmsop gmsop
"""


def arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("shell", choices=["bash", "zsh", "fish"], help="which shell")


def run(args: Namespace) -> None:
    """Run the command."""
    options = _options()
    if args.shell == "fish":
        for name, words in options.items():
            print(f"complete -c gmsop -n __fish_use_subcommand -f -a {name}")
            for word in words:
                print(f"complete -c gmsop -n '__fish_seen_subcommand_from {name}' -l {word.removeprefix('--')}")
        return
    cases = "\n".join(f'            {name}) words="{" ".join(words)}" ;;' for name, words in options.items())
    script = _BASH.replace("@COMMANDS@", " ".join(options)).replace("@CASES@", cases)
    print(f"autoload -U +X bashcompinit && bashcompinit\n{script}" if args.shell == "zsh" else script, end="")


def _options() -> dict[str, list[str]]:
    """Return the options of every command."""
    from gmsop.cli import command, command_names, new_parser

    found = {}
    for name in command_names():
        module = command(name)
        parser = new_parser(module.SUMMARY, module.EXAMPLE)
        module.arguments(parser, [])
        parser.add_argument("--config", action="config")
        words = {word for action in parser._actions for word in action.option_strings if word.startswith("--")}
        found[name] = sorted({word for word in words if not word.endswith("+")} | {"--quiet", "--verbose"})
    return found

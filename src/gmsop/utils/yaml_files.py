"""Read YAML that anybody may have written: numbers as YAML 1.2 has them, nothing that grows, nothing that runs."""

import re
from typing import Any

import yaml

from gmsop.errors import ConfigError

LONGEST = 2**20
"""Characters of a file that is read. A recipe has two thousand."""


def load_yaml(text: str, name: str) -> Any:
    """Return what a YAML text holds.

    Scalars are those of YAML 1.2's core schema: 1e-4 is a number; yes, on, 010 and 1:30 are not what YAML 1.1 makes of
    them. Aliases are refused, because with them a few lines can stand for gigabytes, or for themselves.

    Args:
        name: what errors call the text.

    Raises:
        ConfigError: not valid, with an alias, or too long.
    """
    if len(text) > LONGEST:
        raise ConfigError(f"{name}: {len(text):,} characters, at most {LONGEST:,} are read")
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        text = " ".join(str(error).split())[:300] if not isinstance(error, RecursionError) else "too deep"
        raise ConfigError(f"{name}: not valid YAML ({text})") from error


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own way

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := next((key for key in seen if seen.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[:60]!r} twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "an alias (*), which is not read here", mark)
        if (tag := getattr(self.peek_event(), "tag", None)) is not None:
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, f"a tag ({tag[:60]}), which is not read here", mark)
        return super().compose_node(parent, index)


_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(0|[1-9][0-9]{0,39})", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
for _tag, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _first)

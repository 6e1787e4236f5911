"""A plugin of pytest that lets timm's own tests run over gmsop's models: see `make test-timm` in the Makefile.

timm's tests ask timm for the names to test. With this plugin they get all names of gmsop's, and one name for each of
timm's families, of a small member with a head on it. timm's filters apply to the member's own name. The head is SR-SOP,
but for the one test that expects a vector as long as the tokens are wide: there it is average pooling.
"""

from fnmatch import fnmatch
from functools import cache
from typing import Any

import timm
import torch
from families import FAMILIES
from timm.models import generate_default_cfgs, register_model

import gmsop
from gmsop.models.names import default_cfgs
from gmsop.models.names import gmsop as build

FAMILY_OF = {member: family for family, member in FAMILIES.items() if timm.is_model(member)}


@cache
def _description(member: str, head: str) -> dict[str, Any]:
    with torch.device("meta"):
        spec = gmsop.attach(member, head).spec
    assert spec is not None
    return spec.to_dict()


def _register(member: str, head: str) -> None:
    name = f"{member}_with_{head}"

    def entry(pretrained: bool = False, **kwargs: Any) -> torch.nn.Module:
        return build(pretrained, spec=_description(member, head), **kwargs)

    entry.__name__ = entry.__qualname__ = name
    entry.__module__ = build.__module__
    own = timm.models.get_pretrained_cfg(member)
    size = {key: getattr(own, key) for key in ("input_size", "fixed_input_size", "min_input_size")}
    default_cfgs.update(generate_default_cfgs({name: {"url": "", "classifier": "fc", "num_classes": 1000, **size}}))
    register_model(entry)


for _member in FAMILY_OF:
    _register(_member, "sr_sop")
    _register(_member, "gap")


def list_models(
    filter: Any = "",
    module: Any = "",
    pretrained: bool = False,
    exclude_filters: Any = "",
    **_: Any,
) -> list[str]:
    """Return our names that these words of timm's tests select."""
    if pretrained:
        return []

    def fits(name: str, patterns: Any) -> bool:
        return any(fnmatch(name, pattern) for pattern in ([patterns] if isinstance(patterns, str) else patterns))

    def wanted(name: str) -> bool:
        is_in = not module or name not in FAMILY_OF or FAMILY_OF[name] in module
        return is_in and not fits(name, exclude_filters) and (not filter or fits(name, filter))

    head = "gap" if filter else "sr_sop"
    named = [name for name in gmsop.list_models() if wanted(name)]
    return named + [f"{member}_with_{head}" for member in FAMILY_OF if wanted(member)]


timm.list_models = list_models

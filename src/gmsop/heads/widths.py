"""These are the paper's widths, and what they become on backbones of other widths.

The paper's backbones end in 128 channels (ResNets) or 256 (WRN). A component's first convolution, and the gate's, has
twice as many, 256 or 512; the covariance is of 128, the mean of 512. On others these stay within the paper's range: at
most 512 and 128, and no covariance of more channels than there are.
"""

from collections.abc import Mapping
from typing import Any

from gmsop.nn.gate import default_top_k


def component_widths(channels: int) -> dict[str, Any]:
    """Return the widths of a second-order component, `hidden_dim` and `reduced_dim`."""
    return {"hidden_dim": min(512, 2 * channels), "reduced_dim": min(128, channels)}


def gate_widths(channels: int) -> dict[str, Any]:
    """Return the widths of the gate's prediction layers."""
    return {"gate_dims": (min(512, 2 * channels), min(128, channels))}


def chosen(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `top_k` where it is not given."""
    return {"top_k": default_top_k(options["num_components"])} if options["top_k"] is None else {}

"""Each file here registers backbones, the networks before the heads, with all that others need to know of them."""

from gmsop.backbones.registry import BACKBONES, Backbone, register_backbone

__all__ = ["BACKBONES", "Backbone", "register_backbone"]

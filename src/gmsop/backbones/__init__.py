"""The networks before the heads. A file registers its backbones by name with all that others need to know of them."""

from gmsop.backbones.registry import BACKBONES, Backbone, register_backbone

__all__ = ["BACKBONES", "Backbone", "register_backbone"]

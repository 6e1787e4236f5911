"""The pooling heads, a head a file. A file registers its head by name with all that others need to know of it."""

from gmsop.heads.registry import HEADS, Head, list_heads, register_head

__all__ = ["HEADS", "Head", "list_heads", "register_head"]

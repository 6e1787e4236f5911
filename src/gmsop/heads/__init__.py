"""Each file here registers one pooling head by name, with all that others need to know of it."""

from gmsop.heads.registry import HEADS, Head, list_heads, register_head

__all__ = ["HEADS", "Head", "list_heads", "register_head"]

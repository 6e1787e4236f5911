"""Ways to damage a file: seeded, so that a case can be repeated."""

import json
import random
from collections.abc import Callable
from typing import Any

EXTREME = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)
STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 10**30, 0.5, -1e300, float("nan"), float("inf"), "", "x", "../../x",
    "/etc/passwd", "\x1b[2J", "a" * 5000, [], {}, [[]], [None], {"x": {}}, [2**40] * 4,
)  # fmt: skip
TOKENS = (
    b"0", b"-1", b"1e999", b"nan", b"99999999999999999999999999", b"true", b"null", b"~", b"*a", b"&a [*a]",
    b"!!python/object:os", b",", b",,", b"\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b"\x1b[31m", b'"', b"'",
    b"[", b"]", b"{", b"}", b":", b"=1+1", b"../", b"\\", b"1:30", b"0x10", b"\xe2\x80\xae",
)  # fmt: skip


def of_bytes(content: bytes, draw: random.Random) -> bytes:
    """Flip, overwrite, cut out, repeat, insert; one to four times."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        place, kind = draw.randrange(len(data) + 1), draw.randrange(7)
        length = min(draw.choice((1, 2, 4, 8, 16, 64, 512)), len(data) - place)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[place : place + length] = draw.randbytes(length)
        elif kind == 2:
            del data[place : place + length]
        elif kind == 3:
            data[place:place] = data[place : place + length]
        elif kind == 4:
            size, order = draw.choice((1, 2, 4, 8)), draw.choice(("little", "big"))
            number = draw.choice(EXTREME) % (1 << (8 * size))
            data[place : place + size] = number.to_bytes(size, order)
        elif kind == 5 and draw.random() < 0.3:
            del data[place:]
        else:
            other = draw.randrange(len(data) + 1)
            data[place : place + length] = data[other : other + length]
    return bytes(data)


def of_text(content: bytes, draw: random.Random) -> bytes:
    """Put strange words in, or do with lines and words what is done with bytes."""
    if draw.random() < 0.3:
        return of_bytes(content, draw)
    data = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(len(data) + 1)
        end = place + draw.choice((0, 0, 1, 3, 10))
        if draw.random() < 0.2:
            lines = data.split(b"\n")
            lines.insert(draw.randrange(len(lines) + 1), lines[draw.randrange(len(lines))])
            data = bytearray(b"\n".join(lines))
        else:
            data[place:end] = draw.choice(TOKENS) * draw.choice((1, 1, 1, 2, 1000))
    return bytes(data)


def of_tree(tree: Any, draw: random.Random, strange: tuple[Any, ...] = STRANGE) -> None:
    """Replace, remove or add entries of nested dicts and lists, in place."""
    for _ in range(draw.choice((1, 1, 2))):
        node, path = tree, []
        while isinstance(node, dict | list) and node and (not path or draw.random() < 0.75):
            key = draw.choice(list(node)) if isinstance(node, dict) else draw.randrange(len(node))
            path.append((node, key))
            node = node[key]
        if not path:
            return
        parent, key = path[-1]
        if draw.random() < 0.2:
            del parent[key]
        elif draw.random() < 0.1 and isinstance(parent, dict):
            parent["more"] = draw.choice(strange)
        else:
            parent[key] = draw.choice(strange)


def of_json(content: bytes, draw: random.Random) -> bytes:
    """Change the values; or the text."""
    if draw.random() < 0.3:
        return of_text(content, draw)
    tree = json.loads(content)
    of_tree(tree, draw)
    return json.dumps(tree).encode()


Mutation = Callable[[bytes, random.Random], bytes]

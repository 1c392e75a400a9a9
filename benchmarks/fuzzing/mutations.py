"""Ways to damage a file, from one flipped bit to a value of another type deep inside a record.

Each is a function of the file's bytes and a random generator alone, so that a case can be made again from its number.
"""

import gzip
import io
import json
import random
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]

# Names of files that lead out of the folder; `targets.py` puts a file there that must not be read.
OUTSIDE = ("../outside/private.png", "../../outside/private.png", "/etc/passwd", "/dev/zero")
_LONG = 100_000

# Values that programs write by mistake, or people on purpose, in place of a right one.
ODD_VALUES: tuple[Callable[[], Any], ...] = (
    lambda: None,
    lambda: True,
    lambda: 0,
    lambda: -5,
    lambda: 3.0,
    lambda: 1e308,
    lambda: 10**30,
    lambda: float("nan"),
    lambda: float("inf"),
    lambda: "",
    lambda: " ",
    lambda: "nan",
    lambda: "$$",
    lambda: "$\\frac{1}{2",
    lambda: "</script><img src=x>",
    lambda: "\0",
    lambda: "\ud800",
    lambda: "\u202e\u0301é",
    lambda: "{question.__class__}",
    lambda: "{question:>999999999}",
    lambda: "x" * _LONG,
    lambda: [],
    lambda: {},
    lambda: [[]],
    lambda: [1, "a", None],
    lambda: {"a": {"b": [None]}},
    *(lambda name=name: name for name in OUTSIDE),
)

# What stands in a file's place when something else went wrong before.
_STRANGERS = (
    b"",
    b"\0",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0a" * 32 + b"\nsize 4264023\n",
    b"<!DOCTYPE html><html><head><title>403 Forbidden</title></head></html>\n",
    b"id,answer\n1,yes\n",
    b"[" * _LONG,
    b'{"a":' * _LONG,
    gzip.compress(b"yes\n", mtime=0),
    b"PK\x05\x06" + b"\0" * 18,
    b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000), }\n",
)


def flip_bit(data: bytes, rng: random.Random) -> bytes:
    """One bit, as disks and copies do."""
    if not data:
        return data
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]


def overwrite_number(data: bytes, rng: random.Random) -> bytes:
    """One, two, four or eight bytes become the least, the greatest or a huge number: sizes and offsets in headers."""
    width = rng.choice((1, 2, 4, 8))
    place = rng.randrange(max(1, len(data) - width))
    value = rng.choice((0, 1, 0x7F, (1 << (8 * width - 1)) - 1, (1 << 8 * width) - 1, 100_000)) % (1 << 8 * width)
    return data[:place] + value.to_bytes(width, rng.choice(("little", "big"))) + data[place + width :]


def cut_end(data: bytes, rng: random.Random) -> bytes:
    """The file ends early."""
    return data[: rng.randrange(len(data))] if data else data


def cut_middle(data: bytes, rng: random.Random) -> bytes:
    """A piece is missing."""
    begin, end = _piece(data, rng)
    return data[:begin] + data[end:]


def repeat_piece(data: bytes, rng: random.Random) -> bytes:
    """A piece stands there twice."""
    begin, end = _piece(data, rng)
    return data[:end] + data[begin:]


def zero_piece(data: bytes, rng: random.Random) -> bytes:
    """A piece is zero, as after a power failure."""
    begin, end = _piece(data, rng)
    return data[:begin] + bytes(end - begin) + data[end:]


def insert_noise(data: bytes, rng: random.Random) -> bytes:
    """Random bytes in the middle, or behind the end."""
    place = rng.choice((len(data), rng.randrange(len(data) + 1)))
    return data[:place] + rng.randbytes(rng.choice((1, 16, 400))) + data[place:]


def replace_by_stranger(data: bytes, rng: random.Random) -> bytes:
    """Something else under the file's name: an LFS pointer, an error page, another format."""
    return rng.choice(_STRANGERS)


def recode(data: bytes, rng: random.Random) -> bytes:
    """Text in another encoding, with a mark or with Windows' line ends; compressed."""
    how = rng.choice(("utf-16", "utf-8-sig", "latin-1", "crlf", "gzip"))
    if how == "gzip":
        return gzip.compress(data, mtime=0)
    if how == "crlf":
        return data.replace(b"\n", b"\r\n")
    return data.decode("utf-8", errors="replace").encode(how, errors="replace")


def odd_value(data: bytes, rng: random.Random) -> bytes:
    """One value of a JSON file, of a line of JSON lines or of a table becomes an odd one; other files lose a bit."""
    text = data.decode("utf-8", errors="surrogateescape")
    try:
        return _dumped(_changed(json.loads(text), rng))
    except (ValueError, RecursionError):
        pass
    lines = text.split("\n")
    places = [place for place, line in enumerate(lines) if line.strip()]
    if not places:
        return flip_bit(data, rng)
    place = rng.choice(places)
    try:
        lines[place] = _dumped(_changed(json.loads(lines[place]), rng)).decode()
    except (ValueError, RecursionError):
        separator = next((mark for mark in ("\t", "|", ",") if mark in lines[place]), None)
        if separator is None or (not text.isprintable() and "\0" in text):
            return flip_bit(data, rng)
        cells = lines[place].split(separator)
        cells[rng.randrange(len(cells))] = str(rng.choice(ODD_VALUES)())
        lines[place] = separator.join(cells)
    return "\n".join(lines).encode("utf-8", errors="replace")


def inside(data: bytes, rng: random.Random) -> bytes:
    """Damage under a compression whose own checksum is right again: a zip's member, a gzip's content."""
    change = rng.choice((flip_bit, overwrite_number, cut_end, odd_value, replace_by_stranger))
    if data[:2] == b"\x1f\x8b":
        try:
            return gzip.compress(change(gzip.decompress(data), rng), mtime=0)
        except (OSError, EOFError, zlib.error):
            return flip_bit(data, rng)
    if data[:2] != b"PK":
        return change(data, rng)
    out = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as before, zipfile.ZipFile(out, "w") as after:
            members = {member.filename: before.read(member) for member in before.infolist()}
            name = rng.choice(list(members))
            for member, content in members.items():
                after.writestr(member, change(content, rng) if member == name else content)
            if rng.random() < 0.1:
                after.writestr(f"more/{name}", members[name])
    except (zipfile.BadZipFile, IndexError, zlib.error, NotImplementedError):
        return flip_bit(data, rng)
    return out.getvalue()


# By the name that a row has.
MUTATIONS: dict[str, Mutation] = {
    function.__name__: function
    for function in (
        flip_bit, overwrite_number, cut_end, cut_middle, repeat_piece, zero_piece, insert_noise, replace_by_stranger,
        recode, odd_value, inside,
    )
}  # fmt: skip


def chosen(data: bytes, rng: random.Random) -> str:
    """The name of a mutation: in text mostly odd values, which bytes alone seldom make."""
    if b"\0" not in data[:4096] and rng.random() < 0.6:
        return "odd_value"
    return rng.choice(list(MUTATIONS))


def _piece(data: bytes, rng: random.Random) -> tuple[int, int]:
    begin = rng.randrange(len(data) + 1)
    return begin, min(len(data), begin + rng.choice((1, 8, 64, 512, 4096)))


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def _changed(root: Any, rng: random.Random) -> Any:
    """One node of a JSON value, at any depth, is replaced, removed, doubled, or its text is wrapped."""
    holder, key = [root], 0
    place: tuple[Any, Any] = (holder, key)
    node = root
    while isinstance(node, dict | list) and node and rng.random() < 0.85:
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        place, node = (node, key), node[key]
    parent, key = place
    how = rng.random()
    if how < 0.1 and parent is not holder:
        del parent[key]
    elif how < 0.2 and isinstance(node, list) and node:
        node.append(node[rng.randrange(len(node))])
    elif how < 0.3:
        parent[key] = str(node) if not isinstance(node, str) else [node]
    elif how < 0.35 and isinstance(parent, dict):
        parent[f"{key}_of_a_later_version"] = node
    else:
        parent[key] = rng.choice(ODD_VALUES)()
    return holder[0]

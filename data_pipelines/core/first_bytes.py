"""What a file is by its first bytes, where that is not what its name says: named for what it is, with the remedy."""

import re
import zlib
from pathlib import Path

HEAD = 4096  # bytes that the functions here look at
GZIP = b"\x1f\x8b"

_UNPACK = "unpack it, and name the file inside"
_AGAIN = "download it again, logged in where that is needed"
_OTHER = "name the file that is meant"
# What a file begins with → what it is, and the remedy.
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (
        rb"version https://git-lfs\.github\.com/spec/",
        "a Git LFS pointer, not the file itself",
        "fetch it with: git lfs pull (or hf download)",
    ),
    (rb"\s*(<!doctype html|<html|<head|<body)", "an HTML page, such as servers send in place of a file", _AGAIN),
    (rb"\s*(<\?xml.{0,200})?<error>", "an error message of a storage server", _AGAIN),
    (
        rb"\s*(Entry not found|Repository not found|Invalid (username|credentials)|Access to (model|dataset) |"
        rb"Not Found\s*$|404: Not Found|AccessDenied)",
        "an error message of a server",
        _AGAIN,
    ),
    (rb"PK(\x03\x04|\x05\x06)", "a zip archive (or .xlsx, .npz)", _UNPACK),
    (rb".{257}ustar", "a tar archive", _UNPACK),
    (rb"\xfd7zXZ\x00", "compressed with xz", _UNPACK),
    (rb"BZh[1-9]1AY&SY", "compressed with bzip2", _UNPACK),
    (rb"\x28\xb5\x2f\xfd", "compressed with zstd", _UNPACK),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (rb"Rar!\x1a\x07", "a rar archive", _UNPACK),
    (rb"%PDF-", "a PDF document", _OTHER),
    (rb"PAR1", "a parquet file", _OTHER),
    (rb"\x89HDF\r\n", "an HDF5 file", _OTHER),
    (rb"SQLite format 3\x00", "an SQLite database", _OTHER),
    (rb"GGUF", "a GGUF file (quantised weights of llama.cpp)", "give the unquantised model"),
    (rb"\x80[\x02-\x05](?=.{0,3}[\x5d\x7d\x63\x8c(\x95])", "a Python pickle", _OTHER),
)
_PATTERNS = tuple((re.compile(begin, re.IGNORECASE | re.DOTALL), what, remedy) for begin, what, remedy in _KINDS)
# Of what is no text; the readers of these know them themselves.
_PICTURES = tuple(
    (re.compile(begin, re.DOTALL), what)
    for begin, what in (
        (rb"\x89PNG\r\n\x1a\n", "a PNG image"),
        (rb"\xff\xd8\xff", "a JPEG image"),
        (rb"GIF8[79]a", "a GIF image"),
        (rb"(II\*\x00|MM\x00\*)", "a TIFF image"),
        (rb".{128}DICM", "a DICOM file"),
    )
)
_MARKS = ((b"\xff\xfe\x00\x00", "utf-32"), (b"\x00\x00\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"),
          (b"\xfe\xff", "utf-16"))  # fmt: skip


def disguise(head: bytes) -> str:
    """What else a file is that should be an image, weights or a tokenizer, and what to do; "" for nothing known.

    Args:
      head: its first `HEAD` bytes.
    """
    if not head:
        return "empty (0 bytes); copy it again"
    for begin, what, remedy in _PATTERNS:
        if begin.match(head):
            return f"{what}; {remedy}"
    if head.startswith(GZIP):
        return f"{'a tar archive, ' if _is_tar(unpacked_head(head)) else ''}compressed with gzip; {_UNPACK}"
    if head.startswith(tuple(mark for mark, _ in _MARKS)) and b"\0" in head:
        return f"text in UTF-16; {_OTHER}"
    return ""


def disguise_of(path: Path) -> str:
    """`disguise` of a file; "" of one that cannot be read."""
    try:
        with path.open("rb") as file:
            return disguise(file.read(HEAD))
    except OSError:
        return ""


def disguised_text(head: bytes, form: str) -> str:
    """What else a file is that should be text of that form ("JSON …", "CSV", …), and what to do; "" for nothing known.

    Args:
      head: its first `HEAD` bytes, unpacked; they may be in UTF-16 with a byte order mark.
    """
    if found := disguise(head if encoding_of(head).startswith("utf-8") else b"text"):
        return found
    for begin, what in _PICTURES:
        if begin.match(head):
            return f"{what}; {_OTHER}"
    text = head.decode(encoding_of(head), "replace").lstrip()
    if "\0" in text:
        zeros = head[:64].count(0)
        what = "text in UTF-16 without a byte order mark" if 3 * zeros >= len(head[:64]) else "no text but binary data"
        return f"{what}; {'save it in UTF-8' if what.startswith('text') else _OTHER}"
    first, line = text[:1], text.partition("\n")[0]
    if "JSON" in form and first not in ("", "{", "[") and re.search(r"[,;\t|]", line) and not _is_scalar(line):
        form, lines = form.removeprefix("valid "), ", lines=True" if form.endswith("Lines") else ""
        return f"CSV, not {form}; turn it into that, e.g. pandas.read_csv(…).to_json(…, orient='records'{lines})"
    if form == "CSV" and first in ("{", "["):
        return "JSON, not CSV; write a header and a row a line"
    return ""


def _is_scalar(line: str) -> bool:
    return re.fullmatch(r'\s*("([^"\\]|\\.)*"|-?[\d.eE+-]+|true|false|null|NaN|-?Infinity)\s*', line) is not None


def encoding_of(head: bytes) -> str:
    """The encoding that a byte order mark names; UTF-8, with or without one, where there is none."""
    return next((encoding for mark, encoding in _MARKS if head.startswith(mark)), "utf-8-sig")


def unpacked_head(head: bytes) -> bytes:
    """The first bytes inside a gzip file, by its own first bytes; b"" where they are damaged."""
    try:
        return zlib.decompressobj(wbits=31).decompress(head, HEAD)
    except zlib.error:
        return b""


def _is_tar(head: bytes) -> bool:
    return head[257:262] == b"ustar"

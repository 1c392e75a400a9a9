"""Checksums of small files, in a file beside them that `sha256sum --check` reads.

    SHA256SUMS          one line a file, by name
    "sha256" in a JSON  of its other fields: for a file that is written later than its neighbours, and alone

Arrays have sums of their own, `checkpoint/integrity.py`.
"""

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

from data_pipelines.core.errors import listed
from data_pipelines.core.json_files import digest_of, parse_json

SUMS = "SHA256SUMS"
_SEAL = "sha256"


def sums_of(files: Mapping[str, bytes]) -> bytes:
    """The content of `SHA256SUMS` beside these files."""
    return "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)).encode()


def require_sums(files: Mapping[str, bytes], sums: bytes, *, where: str, apart: Collection[str] = ()) -> None:
    """Checks that files are those whose sums were written.

    Args:
      sums: the content of `SHA256SUMS`.
      where: the folder, for the message.
      apart: names of files that are sealed by themselves, and may come and go.

    Raises:
      ValueError: a file is changed, missing or additional; it is named.
    """
    here = {name: content for name, content in files.items() if name not in apart}
    if sums_of(here) == sums:
        return
    now, then = _parsed(sums_of(here)), _parsed(sums)
    faults = {
        "not what was written there, by its checksum": [name for name in now if then.get(name, now[name]) != now[name]],
        "was not written there": sorted(now.keys() - then.keys()),
        "missing": sorted(then.keys() - now.keys()),
    }
    said = next(((names, fault) for fault, names in faults.items() if names), ([SUMS], "damaged"))
    raise ValueError(f"{where}/{listed(said[0], 3)}: {said[1]}")


def _parsed(sums: bytes) -> dict[str, str]:
    """File name → digits, as far as the lines are such."""
    lines = (line.partition("  ") for line in sums.decode("utf-8", "replace").splitlines())
    return {name: digits for digits, _, name in lines}


def sealed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """JSON fields with the sum of them all as the last one."""
    return {**fields, _SEAL: digest_of(dict(fields))}


def unsealed(text: bytes) -> tuple[dict[str, Any], bool]:
    """The fields of a sealed JSON object without the sum, and whether it has one: files of before have none.

    Raises:
      ValueError: it is no JSON object, or its fields are not those that were sealed.
    """
    fields = parse_json(text, "its text", remedy="write it anew")
    if not isinstance(fields, dict):
        raise ValueError("it is not a mapping")
    seal = fields.pop(_SEAL, None)
    if seal is not None and seal != digest_of(fields):
        raise ValueError(f"its fields are not those that were written, by its {_SEAL}")
    return fields, seal is not None

"""The codes of all errors that a user can fix, read from the source, and docs/ERRORS.md, which lists them.

python tests/error_codes.py --write      # after adding a code
"""

from __future__ import annotations

import ast
import collections
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "ERRORS.md"
_BASE = "UserError"
_INTRODUCTION = """# Error codes

A command that ends with exit code 2, or with 74 where a disk takes no more, prints one line, `error: LINE [code]`. The
line names the file, the field, the value and the fix, and may be reworded at any time. The code is stable; in Python it
is the `code` of the exception, all of which are `UserError` (`data_pipelines/core/errors.py`). Written by
`python tests/error_codes.py --write`.

| code | raised in |
|---|---|
"""


def _trees() -> dict[str, ast.Module]:
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
        for package in ("rllava_jax", "data_pipelines")
        for path in sorted((ROOT / package).rglob("*.py"))
        if "remote_code" not in path.parts
    }


def error_classes(trees: dict[str, ast.Module]) -> set[str]:
    """Names of UserError and all classes that derive from it."""
    bases = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    found = {_BASE}
    while more := {name for name, of in bases.items() if of & found} - found:
        found |= more
    return found


def _codes_of_classes(trees: dict[str, ast.Module]) -> dict[str, ast.expr]:
    """Class name → the code that it gives to its errors, of those that give one."""
    return {
        node.name: keyword.value
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for keyword in node.keywords
        if keyword.arg == "code"
    }


def raised() -> tuple[dict[str, set[str]], list[str]]:
    """Each code and the files that raise it, and the places (file:line) that make an error without one."""
    trees = _trees()
    classes, codes_of_classes = error_classes(trees), _codes_of_classes(trees)
    codes, without = collections.defaultdict(set), []
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in classes:
                given = next((keyword.value for keyword in node.keywords if keyword.arg == "code"), None)
                given = given or codes_of_classes.get(node.func.id)
                if given is None:
                    without.append(f"{name}:{node.lineno}")
                for constant in ast.walk(given) if given is not None else ():
                    if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                        codes[constant.value].add(name)
    return codes, without


def page(codes: dict[str, set[str]]) -> str:
    """What docs/ERRORS.md holds."""
    rows = (f"| `{code}` | {', '.join(f'`{name}`' for name in sorted(codes[code]))} |" for code in sorted(codes))
    return _INTRODUCTION + "\n".join(rows) + "\n"


def is_well_formed(code: str) -> bool:
    """Whether a code is `area.fault`, in lower case."""
    return re.fullmatch(r"[a-z]+\.[a-z0-9]+(-[a-z0-9]+)*", code) is not None


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/error_codes.py --write")
    PAGE.write_text(page(raised()[0]), encoding="utf-8")

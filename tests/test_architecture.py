"""The structure of the code: how many entries, who imports whom, one name a class. `make lint` checks the layers."""

from __future__ import annotations

import ast
import collections
import re
import sys
from pathlib import Path

import error_codes
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("rllava_jax", "data_pipelines")
# What is copied into exported folders repeats class names on purpose, and is imported by nothing here.
MIRRORS = "remote_code"


def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if MIRRORS not in path.parts]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """The project's modules that a file imports, in functions too, but not for type checking alone.

    Importing `a.b.c` also runs the `__init__` of `a` and `a.b`.
    """
    found: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    parents = {name.rsplit(".", n)[0] for name in found for n in range(1, name.count(".") + 1)}
    return (found | parents) & set(known)


def reach(start: str) -> set[str]:
    """Every module of the project that importing `start` may bring in, itself included."""
    known = modules()
    seen, pending = set[str](), [start]
    while pending:
        name = pending.pop()
        if name not in seen:
            seen.add(name)
            pending += imported(known[name], known)
    return seen


def public_classes() -> dict[str, list[str]]:
    """Public class names and the modules that define them."""
    found = collections.defaultdict(list)
    for name, path in modules().items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(name)
    return found


@pytest.mark.parametrize(("package", "most"), [("rllava_jax", 21), ("data_pipelines", 16)])
def test_a_packages_top_fits_on_one_screen(package, most):
    entries = [path.name for path in (ROOT / package).iterdir() if path.name != "__pycache__"]
    assert len(entries) <= most, sorted(entries)


def test_the_training_loop_reaches_few_modules():
    found = reach("rllava_jax.training.loop")
    assert "rllava_jax.training.loop" in found
    assert len(found) <= 45, sorted(found)


def test_a_class_name_exists_once():
    assert {name: where for name, where in public_classes().items() if len(where) > 1} == {}


def test_no_module_is_long():
    """About 400 lines; a longer file does more than one thing."""
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_no_function_is_long():
    """At most 60 lines beside its docstring."""
    long = {}
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                docstring = node.body[0].end_lineno - node.body[0].lineno + 1 if ast.get_docstring(node) else 0
                if (length := node.end_lineno - node.lineno + 1 - docstring) > 60:
                    long[f"{name}.{node.name}"] = length
    assert long == {}


def test_no_import_goes_in_a_circle():
    known = modules()
    graph = {name: imported(path, known) - {name} for name, path in known.items()}
    # A module's own parents are imported before it; they count only where they import something of it.
    graph = {name: {other for other in others if not name.startswith(f"{other}.")} for name, others in graph.items()}
    done: set[str] = set()
    sys.setrecursionlimit(5000)

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " → ".join((*way[way.index(name) :], name))
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*way, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_json_is_read_in_one_place():
    """`core/json_files.py` knows what JSON may hold: no endless nesting, no NaN that turns into text or figures."""
    readers = re.compile(r"\bjson\.loads?\(|\bJSONDecoder\b|\bfrom json import\b|\bcsv\.(DictR|r)eader\(")
    found = {name for name, path in modules().items() if readers.search(path.read_text(encoding="utf-8"))}
    assert found == {"data_pipelines.core.json_files", "data_pipelines.core.text_files"}


def test_every_error_that_a_user_can_fix_has_a_code():
    codes, without = error_codes.raised()
    assert without == []
    assert [code for code in codes if not error_codes.is_well_formed(code)] == []


@pytest.mark.slow
def test_the_list_of_codes_is_the_codes():
    assert error_codes.PAGE.read_text(encoding="utf-8") == error_codes.page(error_codes.raised()[0])


def test_the_page_on_architecture_is_short_and_names_what_is_there():
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    table = text.partition("| to | change |")[2].partition("\n\n")[0]
    rows = [re.findall(r"`([\w/]+/[\w/.]*|[\w/]+\.\w+)`", row) for row in table.splitlines()[2:]]
    assert [row for row in rows if not 1 <= len(row) <= 3] == []
    named = {path for row in rows for path in row if path not in ("protocol.py", "serving/")}
    assert {path for path in named if not (ROOT / path).exists()} == set()

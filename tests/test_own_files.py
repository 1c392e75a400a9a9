"""The JSON files that the project writes and reads again: whatever became of one, it is refused in one line."""

import json
import math
from pathlib import Path

import pytest
from expected_errors import refused

from data_pipelines.core.array_records import shards
from data_pipelines.core.errors import UserError
from data_pipelines.prepared.layout import read_record
from rllava_jax.checkpoint.provenance import start_of
from rllava_jax.config.curriculum import finished_stages
from rllava_jax.config.stored import run_facts
from rllava_jax.evaluation.results import read_rows
from rllava_jax.evaluation.trust.run import read_run
from rllava_jax.interop.huggingface import _files as shards_of_weights
from rllava_jax.interop.lineage import import_record
from rllava_jax.scaling_laws.points import _distinct_examples

STAGE = {"stage": "trained", "run": "r", "steps": 3}
ROW = {"dataset": "d", "split": "s", "subset": "all", "condition": "none", "metric": "accuracy", "value": 0.5, "n": 2,
       "ci_low": None, "ci_high": 0.7}  # fmt: skip
START = {"name": "a", "step": 3, "started_from": {"name": "b", "step": 1, "conversion": {"lineage": [STAGE]}}}


def _assets(path):
    return start_of({path.name: path.read_bytes()}, name="x", step=0, where=str(path.parent))


# File → what is read of it, and its reader.
READERS = {
    "prepared.json": (
        {
            "layout": "1.0.0",
            "splits": {"train": {"languages": {"en": 3}}},
            "window": "auto",
            "box_reading": {"boxes": ""},
        },
        lambda path: read_record(str(path.parent)),
    ),
    "dataset_info.json": (
        {"name": "a", "splits": [{"name": "train", "shardLengths": ["3", "4"]}]},
        lambda path: shards(str(path.parent), "train"),
    ),
    "config.json": (
        {"config": {"seed": 1}, "tokenizer_sha256": "ab", "started_from": START},
        lambda path: run_facts(path.parent),
    ),
    "assets/config.json": ({"config": {"seed": 1}, "started_from": START}, _assets),
    "run.json": (
        {"model": {"name": "m"}, "boxes_sha256": "ab", "most_regions": 4, "most_questions": 0, "has_confidence": None},
        lambda path: read_run(path.parent),
    ),
    "curriculum.json": ({"align": {"step": 3}}, lambda path: finished_stages(path.parent)),
    "metrics.json": ([ROW], read_rows),
    "model.safetensors.index.json": (
        {"weight_map": {"a": "model-1.safetensors"}},
        lambda path: shards_of_weights(path.parent),
    ),
    "conversion.json": (
        {"lineage": [STAGE]},
        lambda path: import_record(path.parent, {}, size="tiny", ours=True),
    ),
    "examples.jsonl": ({"step": 1, "examples": ["a"]}, lambda path: _distinct_examples(path.parent, 5)),
}
# Wrong in place of any value that a reader looks at.
WRONG = ("text", -1.5, True, None, [[1]], {"a": {"b": 1}}, math.nan)
NESTED = "[" * 100_000


def _places(content, place=()):
    """Every value in JSON content, the whole first."""
    yield place
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        yield from _places(value, (*place, key))


def _with(content, place, value):
    if not place:
        return value
    copy = json.loads(json.dumps(content))
    at = copy
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    return copy


@pytest.fixture
def file(tmp_path):
    def named(name):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        return path

    return named


def _outcome(read, path):
    """None where it is read; the error's line, which names the file, where it is refused."""
    try:
        read(path)
    except UserError as error:
        line, code = str(error), error.code
    else:
        return None
    assert code
    assert path.name in line
    assert "\n" not in line
    return line


@pytest.mark.parametrize("name", READERS)
def test_a_value_of_a_wrong_type_is_read_or_refused_in_one_line(file, name):
    content, read = READERS[name]
    path = file(name)
    path.write_text(json.dumps(content))
    assert _outcome(read, path) is None
    refusals = 0
    for place in _places(content):
        for wrong in WRONG:
            path.write_text(json.dumps(_with(content, place, wrong)))
            line = _outcome(read, path)
            refusals += line is not None
            assert line is not None or wrong is not math.nan, place
    assert refusals >= len(WRONG)  # the whole is never one of these


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "empty"),
        ("{", "JSON"),
        (NESTED, "nested"),
        ('{"a":' * 100_000, "nested"),
        ("version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\xff\xff{}", "UTF-8"),
        (b'{"a": "\xff"}', "UTF-8"),
    ],
)
def test_what_is_no_json_is_said(file, name, content, named):
    _, read = READERS[name]
    path = file(name)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    line = _outcome(read, path)
    assert line is not None
    assert named in line or name.startswith("assets/")


def test_a_field_is_named_with_its_value_and_what_was_expected(file):
    path = file("metrics.json")
    path.write_text(json.dumps([ROW, ROW | {"n": "two"}]))
    with refused(UserError, "file.malformed", f"{path}: [1].n is 'two'", "integer", "evaluate the run again"):
        read_rows(Path(path))

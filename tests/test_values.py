"""NaN, Infinity and the forms of numbers, in every reader of values."""

import csv
import dataclasses
import json
import logging

import pytest
from expected_errors import refused
from PIL import Image
from published_files import FIXTURES, JSON, PARQUET

from data_pipelines.core.errors import DataError
from data_pipelines.core.json_files import json_lines, parse_json, read_json, read_objects
from data_pipelines.core.text_files import read_rows
from data_pipelines.core.values import number_as_text
from data_pipelines.prepare import main as prepare
from data_pipelines.records import MalformedRows
from data_pipelines.sources import jsonl, registry
from rllava_jax.evaluate import main as evaluate
from rllava_jax.evaluation.answer_files import NOT_FINITE, read_answers
from rllava_jax.evaluation.references import from_file

NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture(params=[json_lines, read_objects], ids=lambda reader: reader.__name__)
def read(request, tmp_path):
    """Reads entries back from a file of that form."""

    def through(*entries):
        path = tmp_path / "f.json"
        lines = [json.dumps(entry) for entry in entries]
        path.write_text("\n".join(lines) if request.param is json_lines else f"[{','.join(lines)}]")
        return [entry for _, entry in request.param(str(path))]

    return through


@pytest.mark.parametrize("written", [NAN, "nan", "NaN", " nan "])
def test_nan_is_absent_and_counted_by_field(read, written, caplog):
    entries = [{"a": written, "b": {"c": [written, {"d": written}]}}, {"a": written, "b": None}]
    assert read(*entries) == [{"a": None, "b": {"c": [None, {"d": None}]}}, {"a": None, "b": None}]
    (message,) = caplog.messages
    assert "f.json" in message
    assert all(counted in message for counted in ("a 2", "b.c 1", "b.c.d 1"))


@pytest.mark.parametrize("written", [INFINITY, -INFINITY])
def test_infinity_is_refused_with_its_field(read, written):
    with refused(DataError, "data.invalid-value", "f.json", "'b.c'", "Infinity"):
        read({"a": 1, "b": {"c": [written]}})


def test_a_number_that_overflows_is_infinite():
    with refused(DataError, "data.invalid-value", "here", "'a'", "Infinity"):
        parse_json('{"a": 1e999}', "here", remedy="")


def test_whole_numbers_are_whole_however_they_are_written(read, caplog):
    (found,) = read({"a": 3.0, "b": 3, "c": 2.5, "d": -0.0, "e": True, "f": "3.0"})
    assert json.dumps(found) == '{"a": 3, "b": 3, "c": 2.5, "d": 0, "e": true, "f": "3.0"}'
    assert "a 1" in caplog.text
    assert "b 1" not in caplog.text


def test_without_leave_nan_is_refused_with_its_place(tmp_path):
    (tmp_path / "a.json").write_text('{"p10/film.jpg": [{"box": [1, NaN]}], "x": 1}')
    with refused(DataError, "data.invalid-value", "a.json", "'0[0].box[1]'", "NaN") as caught:
        read_json(str(tmp_path / "a.json"), absent=False)
    assert "p10" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), (3.0, "3"), (-0.0, "0"), (2.5, "2.5"), (1e-5, "0.00001"), (1e22, "1" + "0" * 22), (0.1, "0.1")],
)
def test_a_number_has_its_shortest_decimal_form(value, text):
    assert number_as_text(value) == text
    assert float(text) == value


@pytest.mark.parametrize(
    ("cells", "read_as"),
    [
        (["3.0", "", "-7.0"], ["3", "", "-7"]),  # pandas: whole numbers, one of them missing
        (["3.0", "nan", "7.0"], ["3", "", "7"]),
        (["3.0", "4.0"], ["3.0", "4.0"]),  # nothing is missing: somebody's own form
        (["3.0", "", "2.5"], ["3.0", "", "2.5"]),  # not a column of whole numbers
        (["v1.0", ""], ["v1.0", ""]),
    ],
)
def test_columns_of_whole_numbers_keep_their_form(tmp_path, cells, read_as, caplog):
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([["x", "y"], *([cell, "text"] for cell in cells)])
    assert [row["x"] for row in read_rows(str(tmp_path / "a.csv"), ("x",))] == read_as
    assert ("x" in caplog.text) == (cells != read_as)


def _rows(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROW = {"id": "1", "image": "x.png", "question": "How many nodules?", "answer": "Two"}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("L", (80, 100)).save(tmp_path / "in/x.png")
    return tmp_path / "in"


@pytest.mark.parametrize("field", sorted(jsonl._FIELDS - {"generated"}))
def test_nan_in_any_field_of_a_row_is_refused_or_counted(root, field, caplog):
    _rows(root / "train.jsonl", ROW | {field: NAN})
    if field in ROW:
        with refused(DataError, "data.missing-field", "line 1", f"'{field}'"):
            jsonl.load(str(root), "train")
        return
    caplog.set_level(logging.WARNING)
    (example,) = jsonl.load(str(root), "train").examples
    _rows(root / "train.jsonl", ROW)
    assert jsonl.load(str(root), "train").examples == [example]
    assert f"{field} 1" in caplog.text


def test_the_answer_three_is_three(root):
    _rows(root / "train.jsonl", ROW | {"answer": 3.0}, ROW | {"id": 2.0, "answer": NAN} | {"answer": 2.5})
    found = [(e.id, e.answer) for e in jsonl.load(str(root), "train").examples]
    assert found == [("jsonl/1", "3"), ("jsonl/2", "2.5")]


@pytest.mark.parametrize("other", [1, 1.0, "1"])
def test_ids_compare_by_value(root, other, capsys):
    _rows(root / "train.jsonl", ROW, ROW | {"id": other})
    assert prepare(["jsonl", "--source", str(root), "--out", str(root.parent / "out"), "--workers", "1"]) == 2
    assert "'jsonl/1'" in capsys.readouterr().err
    with refused(DataError, "data.duplicate-id", "'1'"):
        from_file(_rows(root / "refs.jsonl", ROW, ROW | {"id": other}))


@pytest.mark.parametrize("ids", [(1, 2, 3), (1.0, 2.0, 3.0), ("1", 2, 3.0)])
def test_predictions_find_their_references_however_numbers_are_written(tmp_path, ids, capsys):
    references = [{"id": 1, "answer": 3}, {"id": 2, "answer": "left"}, {"id": 3, "answer": 2.0}]
    answers = (3.0, "left", NAN)
    given = [{"id": name, "answer": answer} for name, answer in zip(ids, answers, strict=True)]
    names = [str(_rows(tmp_path / "p.jsonl", *given)), str(_rows(tmp_path / "r.jsonl", *references))]
    assert evaluate(["--predictions", names[0], "--references", names[1], "--out", str(tmp_path / "out")]) == 0
    rows = json.loads((tmp_path / "out/scores.json").read_text())
    overall = next(row for row in rows if row["subset"] == "all" and row["metric"] == "accuracy")
    assert (overall["value"], overall["n"]) == (pytest.approx(2 / 3), 3)
    assert "NaN" in capsys.readouterr().err


def test_an_answer_that_is_not_finite_is_no_answer(tmp_path):
    lines = [{"id": 1, "answer": NAN}, {"id": 2, "answer": INFINITY, "confidence": INFINITY}, {"id": 3, "answer": "a"}]
    found = read_answers(_rows(tmp_path / "p.jsonl", *lines), lists=False)
    assert [answer.text for (answer,) in found.answers.values()] == [None, None, "a"]
    assert sorted(found.findings[NOT_FINITE]) == ["answer", "answer", "confidence"]


def test_a_reference_that_is_nan_is_refused(tmp_path):
    with refused(DataError, "data.invalid-value", "r.jsonl, line 1", "answer"):
        from_file(_rows(tmp_path / "r.jsonl", {"id": 1, "answer": NAN}))


def _texts_of(record):
    """Every text in a record, however deep."""
    if isinstance(record, str):
        yield record
    elif dataclasses.is_dataclass(record):
        yield from _texts_of([getattr(record, field.name) for field in dataclasses.fields(record)])
    elif isinstance(record, list | tuple):
        for value in record:
            yield from _texts_of(value)


def _mutated(content, value):
    """The content with the value in place of each number and text, one at a time, and where."""
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, held in entries:
        for at, inner in [((), value)] if isinstance(held, str | int | float) else _mutated(held, value):
            yield (
                (key, *at),
                {**content, key: inner}
                if isinstance(content, dict)
                else [
                    *content[:key],
                    inner,
                    *content[key + 1 :],
                ],
            )


def _loaded(name, root):
    try:
        return registry.SOURCES.get(name, setting="NAME").load(str(root), FIXTURES[name].split).records
    except MalformedRows as error:
        return error.rest.records
    except DataError:
        return ()


@pytest.mark.parametrize("name", [name for name in registry.SOURCES if name not in registry.DRAWN])
def test_no_source_takes_nan_for_text_or_three_for_a_fraction(name, tmp_path):
    fixture = FIXTURES[name]
    in_json = fixture.form == JSON
    for value, never in ((NAN if in_json else "nan", ("nan", "none")), (3.0 if in_json else "NaN", ("3.0", "nan"))):
        places = 0
        for place, row in _mutated(fixture.rows[1], value):
            if not in_json and fixture.form == PARQUET and place[0] == "image":
                continue
            places += 1
            fixture.write(tmp_path, [fixture.rows[0], row, *fixture.rows[2:]])
            texts = {text.strip().lower() for text in _texts_of(list(_loaded(name, tmp_path)))}
            taken = [text for text in texts for bad in never if text == bad or text.endswith(f"/{bad}")]
            assert not taken, (place, taken)
        assert places


@pytest.mark.parametrize("name", ["slake", "vqa_rad", "path_vqa", "jsonl"])
def test_the_answer_three_is_three_in_every_source_that_has_answers(name, tmp_path):
    fixture = FIXTURES[name]
    fixture.write(tmp_path, [fixture.rows[0], {**fixture.rows[1], "answer": 3.0}, *fixture.rows[2:]])
    split = registry.SOURCES.get(name, setting="NAME").load(str(tmp_path), fixture.split)
    assert "3" in [example.answer for example in split.examples]

"""The published file of boxes, and asking models with it."""

import dataclasses
import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines.core.errors import ConfigError, DataError
from data_pipelines.records import Region, VQAExample
from rllava_jax import trust
from rllava_jax.evaluation.answers import is_right
from rllava_jax.evaluation.predictions import read_predictions
from rllava_jax.evaluation.trust import boxes_file
from rllava_jax.evaluation.trust.models import function_named, measure
from rllava_jax.evaluation.trust.run import Run

SETTINGS = {"languages": ["en"], "window": "auto", "seed": 0, "max_regions": 1}


def made(count=3):
    examples = [
        VQAExample(
            f"toy/identify/a/{i}", "toy", "test", b"", f"a{i}", "What is it?", "Leber „ü“", family="identify",
            regions=(Region((0.4, 0.1, 0.6, 0.4), "Leber „ü“"),),
            distractors=(Region((0.4, 0.7, 0.5, 0.9), "Spleen"),), accepted=("liver",),
        )
        for i in range(count)
    ]  # fmt: skip
    return boxes_file.make(examples, lambda example: (200, 100), source="toy", split="test", settings=SETTINGS)


@pytest.fixture
def path(tmp_path):
    boxes_file.write(tmp_path / "boxes.jsonl", made())
    return tmp_path / "boxes.jsonl"


def test_a_file_is_read_as_it_was_made(path):
    assert boxes_file.read(path) == made()


def test_the_same_examples_give_the_same_file_in_any_order(path):
    examples = made()
    assert boxes_file.read(path).sha256 == examples.sha256
    assert {q.id: q.variants for q in made(2).questions}.items() <= {
        q.id: q.variants for q in made(3).questions
    }.items()


def test_another_program_finds_pixels_of_the_original_image(path):
    header, first, *_ = (json.loads(line) for line in path.read_text().splitlines())
    variant = next(v for v in first["variants"] if v["name"] == "right")
    assert variant["pixels"] == [[20.0, 40.0, 60.0, 20.0]]  # x, y, w, h of 200 x 100
    assert first["image_size"] == [200, 100]
    assert header["variants"]["another"] == {"available": 3, "unavailable": {}}


def test_a_variant_that_cannot_be_is_listed_with_its_reason():
    whole = VQAExample("q", "toy", "test", b"", "a", "What?", "Brain", family="identify",
                       regions=(Region((0.0, 0.0, 1.0, 1.0), "Brain"),))  # fmt: skip
    found = boxes_file.make([whole], lambda e: (10, 10), source="toy", split="test", settings=SETTINGS)
    assert found.header["variants"]["whole"] == {
        "available": 0,
        "unavailable": {"the right box is the whole image": 1},
    }


def test_a_data_set_without_boxes_is_refused():
    plain = VQAExample("q", "toy", "test", b"", "a", "What?", "Brain")
    with pytest.raises(DataError, match="toy test: no question has a right box"):
        boxes_file.make([plain], lambda e: (10, 10), source="toy", split="test", settings=SETTINGS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("0.4", "0.5", 1), "its content was changed after it was written"),
        (lambda text: "".join(text.splitlines(True)[:-1]), "has 2 questions, its header says 3"),
        (lambda text: text.replace('"version": 1', '"version": 7'), "version is 7, this program reads 1"),
        (lambda text: "", "is empty"),
        (lambda text: "{}\n", "is no file of perturbed boxes"),
        (lambda text: "[1]\nx", "is no file of perturbed boxes"),
    ],
)
def test_a_changed_file_is_refused(path, change, message):
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=message):
        boxes_file.read(path)


def rewritten(path, change):
    """The file with a change made to its first question, and the sum that belongs to it."""
    header, *questions = (json.loads(line) for line in path.read_text().splitlines())
    change(questions[0])
    lines = [json.dumps(question, ensure_ascii=False) for question in questions]
    header["sha256"] = hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
    path.write_text("\n".join([json.dumps(header, ensure_ascii=False), *lines]) + "\n")


@pytest.mark.parametrize("name", ["right_boxes", "right", "another"])
def test_a_box_that_is_in_no_image_is_refused_though_the_sum_is_right(path, name):
    written = path.read_text()
    for number, value in enumerate((-5, -1e-3, 1.001, 1e308, float("nan"), float("inf"))):

        def change(question, number=number, value=value):
            variant = next((found for found in question["variants"] if found["name"] == name), {})
            (question["right_boxes"] if name == "right_boxes" else variant["boxes"])[0][number % 4] = value

        path.write_text(written)
        rewritten(path, change)
        with refused(DataError, "file.malformed", str(path), "line 2"):
            boxes_file.read(path)


def test_every_field_of_the_header_is_compared_with_the_questions_or_checked(path):
    header, *lines = path.read_text().splitlines()
    fields = json.loads(header)
    free = {"conversations_left_out"}  # counts what is not in the file, and is shown to nobody
    for field in fields.keys() - free:
        for other in (None, [], {"window": 3}, -1, "other"):
            if field == "source" and other == "other":
                continue  # any name may be a data set's: it is asked for its images, which are compared
            changed = json.dumps(fields | {field: other}, ensure_ascii=False)
            path.write_text("\n".join([changed, *lines]) + "\n")
            with refused(DataError, "file.malformed", str(path)):
                boxes_file.read(path)


def picture(question):
    return Image.new("RGB", question.image_size)


def test_a_function_is_shown_the_image_the_words_and_pixels(path):
    seen = []

    def answer(image, question, boxes):
        seen.append((image.size, question, [tuple(np.round(box, 3)) for box in boxes]))
        return "Leber „ü“", 0.75

    predictions, run = measure(answer, made(1), picture, name="toy", most_regions=2)
    assert seen[0] == ((200, 100), "What is it?", [(20, 40, 60, 20)])
    assert seen[1] == ((200, 100), "What is it?", [])
    assert seen[-1][1] == "The marked structure is the spleen. What is it?"
    assert len(seen[-2][2]) == 2
    assert run.has_confidence
    assert predictions[0].condition == "trust:right"
    assert predictions[0].confidence == 0.75


def test_variants_with_more_boxes_than_the_function_takes_are_not_asked():
    predictions, _ = measure(lambda *_: ("x", None), made(1), picture, name="toy", most_regions=1)
    assert "trust:two" not in {p.condition for p in predictions}


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    asked = []

    def answer(image, question, boxes, stop=8):
        asked.append(question)
        if len(asked) == stop:
            raise KeyboardInterrupt
        return "x", 0.5

    with pytest.raises(KeyboardInterrupt):
        measure(answer, made(), picture, name="toy", out=tmp_path)
    assert len(asked) == 8  # three of right, three of none, and the second of the next
    first, _ = measure(lambda *a: answer(*a, stop=0), made(), picture, name="toy", out=tmp_path)
    assert len(asked) - 8 == len(first) - 6
    again, _ = measure(lambda *a: pytest.fail("asked again"), made(), picture, name="toy", out=tmp_path)
    assert again == first == read_predictions(tmp_path / "answers.jsonl")
    with pytest.raises(DataError, match="holds answers of another run"):
        measure(answer, made(), picture, name="other", out=tmp_path)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("liver", "the function gave 'liver'"),
        ((3, 0.5), "the answer is 3; return a text"),
        (("liver", 1.5), "the confidence is 1.5"),
        (("liver", float("nan")), "the confidence is nan"),
    ],
)
def test_a_function_that_answers_otherwise_is_told_how(reply, message):
    with pytest.raises(DataError, match=message):
        measure(lambda *_: reply, made(), picture, name="toy")


def test_confidence_comes_always_or_never():
    replies = iter([("x", 0.5)] * 4 + [("x", None)] * 99)
    with pytest.raises(DataError, match="a confidence with some answers only"):
        measure(lambda *_: next(replies), made(), picture, name="toy")


@pytest.mark.parametrize("name", ["json", "no_such_module:f", "json:no_such", "json:__name__", ":x"])
def test_an_adapter_that_is_no_function_is_named(name):
    with refused(ConfigError, "option.invalid-value", f"--adapter {name}"):
        function_named(name)


@pytest.mark.slow
def test_the_command_line_from_boxes_to_table(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "toy_adapter.py").write_text("def answer(image, question, boxes):\n    return 'yes', None\n")
    boxes, out, root = tmp_path / "boxes" / "toy.jsonl", tmp_path / "run", tmp_path / "data"
    root.mkdir()
    rows = [
        {"image": f"{i}.png", "regions": [{"box": box, "label": label}]}
        for i in range(3)
        for label, box in (("Liver", [5, 20, 20, 20]), ("Spleen", [40, 20, 15, 10]))
    ]
    for i in range(3):
        Image.new("RGB", (64, 48), (i, i, i)).save(root / f"{i}.png")
        rows.append({"id": f"v{i}", "image": f"{i}.png", "question": "Is the liver normal?", "answer": "yes",
                     "regions": [{"box": [5, 20, 20, 20], "label": "Liver"}]})  # fmt: skip
    (root / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert trust.main(["boxes", "--data", "jsonl", "--root", str(root), "--out", str(boxes)]) == 0
    run = ["run", "--adapter", "toy_adapter:answer", "--boxes", str(boxes), "--root", str(root), "--bootstrap", "20"]
    assert trust.main([*run, "--out", str(out)]) == 0
    rows = (out / "metrics.json").read_text()
    assert trust.main(["score", "--answers", str(out), "--bootstrap", "20"]) == 0
    assert (out / "metrics.json").read_text() == rows
    published, again = tmp_path / "toy.jsonl.gz", tmp_path / "again"
    published.write_bytes(gzip.compress(boxes.read_bytes()))
    run[run.index(str(boxes))] = str(published)
    assert trust.main([*run, "--out", str(again)]) == 0
    assert (again / "metrics.json").read_text() == rows
    assert (again / "boxes.jsonl").read_text() == boxes.read_text()
    assert "Region trust: " in (again / "report.html").read_text()
    capsys.readouterr()
    assert trust.main(["table", str(out), "--picture", str(tmp_path / "curve.svg")]) == 0
    table = capsys.readouterr().out
    assert trust.main(["table", str(out), "--subset", "family=chose"]) == 2
    assert "all, family=identify" in capsys.readouterr().err
    assert "**trust score**" in table
    assert "| contradicted |" in table
    assert (tmp_path / "curve.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["boxes", "--data", "slack", "--root", "x", "--out", "b"], "did you mean 'slake'"),
        (["boxes", "--data", "slake", "--out", "b"], "--root: is empty"),
        (["boxes", "--data", "phantom", "--max-regions", "0", "--out", "b"], "--max-regions: '0'"),
        (["run", "--adapter", "json:loads", "--boxes", "none.jsonl", "--out", "o"], "none.jsonl: no such file"),
        (["run", "--adapter", "m:f", "--boxes", "b", "--out", "o", "--bootstrap=-1"], "--bootstrap: '-1'"),
        (
            ["run", "--adapter", "m:f", "--boxes", "b", "--out", "o", "--batch-size", "3"],
            "--batch-size 3: goes with",
        ),
        (
            ["run", "--checkpoint", "c", "--boxes", "b", "--out", "o", "--max-regions", "3"],
            "--max-regions 3: goes with",
        ),
        (["score", "--answers", "nowhere"], "nowhere/answers.jsonl: no such file"),
        (["table", "nowhere"], "nowhere/metrics.json: no such file"),
    ],
)
def test_bad_input_is_an_error_of_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert trust.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


@pytest.mark.slow
def test_the_published_boxes_are_what_slake_gives_today(slake_root, tmp_path, capsys):
    published = boxes_file.read(Path(__file__).parents[1] / "docs" / "trust" / "slake_test_boxes.jsonl.gz")
    again = tmp_path / "again.jsonl"
    assert trust.main(["boxes", "--data", "slake", "--root", slake_root, "--out", str(again)]) == 0
    assert published.sha256 in capsys.readouterr().out
    assert boxes_file.read(again) == published


def test_a_file_whose_name_ends_in_gz_is_compressed(path, tmp_path):
    boxes_file.write(tmp_path / "boxes.jsonl.gz", boxes_file.read(path))
    assert gzip.decompress((tmp_path / "boxes.jsonl.gz").read_bytes()) == path.read_bytes()
    assert boxes_file.read(tmp_path / "boxes.jsonl.gz") == boxes_file.read(path)


@pytest.mark.parametrize(("field", "value"), [("answer", "spleen"), ("family", "vqa"), ("accepted", ["anything"])])
def test_answers_that_bring_another_reference_are_refused(tmp_path, monkeypatch, capsys, path, field, value):
    out = tmp_path / "run"
    measure(lambda *_: ("spleen", None), boxes_file.read(path), picture, name="toy", out=out)
    lines = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    lines[0][field] = value
    (out / "answers.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert trust.main(["score", "--answers", str(out), "--boxes", str(path)]) == 2
    assert f"has {field} " in capsys.readouterr().err


def test_an_adapter_is_imported_and_asked_without_a_traceback(tmp_path, monkeypatch, path):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken_adapter.py").write_text("def answer(image, question, boxes)\n    return 'yes', None\n")
    with refused(ConfigError, "option.invalid-value", "broken_adapter:answer", "SyntaxError"):
        function_named("broken_adapter:answer")

    def fails(image, question, boxes):
        raise KeyError("weights")

    with pytest.raises(DataError, match="the function raised KeyError: 'weights'"):
        measure(fails, boxes_file.read(path), picture, name="toy")


def test_a_numpy_probability_is_a_confidence(path):
    predictions, _ = measure(lambda *_: ("spleen", np.float32(0.5)), boxes_file.read(path), picture, name="toy")
    assert {p.confidence for p in predictions} == {0.5}


def test_further_right_answers_count(path):
    boxes = boxes_file.read(path)
    question = dataclasses.replace(boxes.questions[0], answer="heart", accepted=("cardiac",))
    asked = dataclasses.replace(boxes, questions=(question,))
    predictions, _ = measure(lambda *_: ("cardiac", None), asked, picture, name="toy")
    assert {is_right(p) for p in predictions} == {1.0}


def test_a_compressed_file_that_is_damaged_is_refused(path, tmp_path):
    damaged = tmp_path / "boxes.jsonl.gz"
    damaged.write_bytes(gzip.compress(path.read_bytes())[:-20])
    with refused(DataError, "file.malformed", "boxes.jsonl.gz"):
        boxes_file.read(damaged)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"checkpoint": "/runs/tiny/checkpoints", "step": 40}, "Region trust: tiny, step 40"),
        ({"function": "module:answer"}, "Region trust: module:answer"),
    ],
)
def test_the_page_of_a_run_is_named_after_the_model(model, said, tmp_path):
    assert trust.report_title(Run(model, "", 1)) == said

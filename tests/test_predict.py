"""Prediction from a checkpoint alone: the evaluation's answers, one question at a time, and clear refusals."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from boxed_sources import Picture, photo
from dicom_files import write_dicom
from expected_errors import assert_refused
from expected_errors import refused as expected
from PIL import Image

from data_pipelines.core.errors import DataError
from data_pipelines.loading.examples import load_examples
from data_pipelines.records import Region
from data_pipelines.regions.boxes import box_to_pixels
from rllava_jax import predict
from rllava_jax.config.loading import load
from rllava_jax.evaluation.predictions import read_predictions
from rllava_jax.inference.decode import Sampling
from rllava_jax.inference.generator import GeneratedAnswer
from rllava_jax.inference.predictor import Predictor


@pytest.fixture(scope="module")
def workdir(finished_run, tmp_path_factory):
    """The run with nothing left but its checkpoints, which must be enough."""
    folder = tmp_path_factory.mktemp("predict") / "run"
    shutil.copytree(finished_run / "checkpoints", folder / "checkpoints")
    return folder


@pytest.fixture(scope="module")
def evaluated(finished_run, command_line):
    """What the run's evaluation answered, with the examples it asked."""
    config = load(command_line.config, [])
    examples = load_examples(config.data, "test", seed=config.seed, max_regions=config.regions.max_regions)
    by_id = {example.id: example for example in examples}
    predictions = read_predictions(finished_run / "eval" / "14" / "predictions.jsonl")
    return [(by_id[prediction.id], prediction) for prediction in predictions]


@pytest.fixture(scope="module")
def predictor(workdir):
    return Predictor.load(workdir)


@pytest.fixture(scope="module")
def image(evaluated, tmp_path_factory):
    """An image file of the test split."""
    path = tmp_path_factory.mktemp("image") / "slice.png"
    path.write_bytes(evaluated[0][0].image)
    return path


@pytest.mark.parametrize("condition", ["right", "none", "wrong"])
def test_answers_are_the_evaluations(predictor, evaluated, condition):
    asked = [pair for pair in evaluated if pair[1].condition == condition]
    assert len(asked) == 16
    for example, prediction in asked:
        regions = [Region(box) for box in prediction.boxes]
        answer = predictor.answer(example.image, example.question, regions, task=example.task)
        assert answer.text == prediction.prediction, example.id
        # Decoded alone and not in a batch of eight: other sums, the same numbers to float32's rounding.
        assert answer.log_prob == pytest.approx(prediction.log_prob, abs=1e-3), example.id


def test_a_checkpoint_is_found_by_a_path_from_the_current_folder(workdir, monkeypatch):
    monkeypatch.chdir(workdir.parent)
    assert Predictor.load(Path(workdir.name)).checkpoint == workdir / "checkpoints" / "14"


def test_a_region_changes_the_answers_probability(predictor, evaluated):
    example, prediction = next(pair for pair in evaluated if pair[1].boxes)
    shown = predictor.answer(example.image, example.question, [Region(prediction.boxes[0])])
    absent = predictor.answer(example.image, example.question)
    assert shown.log_prob != absent.log_prob


def test_sampling_is_decided_by_its_seed(workdir, image):
    predictor = Predictor.load(workdir, sampling=Sampling(temperature=2.0))
    question = "what is the marked structure?"
    drawn = [predictor.answer(str(image), question, seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len({answer.text for answer in drawn}) > 1


def test_more_regions_than_slots_is_an_error(predictor, image):
    with pytest.raises(DataError, match="2 regions"):
        predictor.answer(str(image), "what is this?", [Region((0, 0, 0.5, 0.5)), Region((0.5, 0.5, 1, 1))])


def test_command_line_prints_the_evaluations_answer(command_line, workdir, evaluated, tmp_path):
    """Its box is in pixels, x, y, width and height, as an annotation tool gives it."""
    example, prediction = next(
        pair for pair in evaluated if pair[1].family == "identify" and pair[1].condition == "right"
    )
    path = tmp_path / "scan.png"
    path.write_bytes(example.image)
    box = ",".join(f"{number:.6f}" for number in box_to_pixels(prediction.boxes[0], width=96, height=96))
    arguments = ["--checkpoint", workdir, "--image", path, "--question", example.question, "--box", box, "--json"]
    status, out, err = command_line.run([sys.executable, "-m", "rllava_jax.predict", *map(str, arguments)])
    assert status == 0, err
    said = json.loads(out)
    assert said.keys() == {"answer", "confidence", "raw_confidence", "calibrated", "finished"}
    assert not said["calibrated"]
    assert said["answer"] == prediction.prediction
    assert said["confidence"] == pytest.approx(prediction.confidence, rel=1e-3)
    assert err == ""


def test_text_output_is_the_answer_and_its_confidence(workdir, image, capsys):
    question = ["--image", str(image), "--question", "is there a spleen?"]
    assert predict.main(["--checkpoint", str(workdir), *question]) == 0
    answer, confidence = capsys.readouterr().out.splitlines()
    assert answer
    assert confidence.startswith("confidence 0.")


@pytest.mark.parametrize("place", ["", "checkpoints", "checkpoints/12"])
def test_a_run_its_checkpoints_or_one_step_can_be_named(workdir, predictor, image, place):
    question = "is there a spleen?"
    answer = Predictor.load(workdir / place).answer(str(image), question)
    same = answer == predictor.answer(str(image), question)
    assert same == (place != "checkpoints/12")


def test_the_best_checkpoint_can_be_named(workdir, predictor, image):
    question = "is there a spleen?"
    assert Predictor.load(workdir, step="best").answer(str(image), question) == predictor.answer(str(image), question)


class Finder:
    """Stands in for a model that was trained to detect: it finds the liver, and answers with what it is shown."""

    def answer(self, params, batch, *, seed=0):
        prompt = self.tokenizer.decode(batch["text"][0][batch["mask_input"][0].astype(bool)].tolist())
        if "detect" in prompt:
            return [
                GeneratedAnswer(
                    "<loc0000><loc0256><loc0512><loc1023> liver" if "liver" in prompt else "spleen", -0.5, True
                )
            ]
        box = batch["regions"][0, 0].round(2).tolist()
        return [
            GeneratedAnswer(
                f"marked {box}" if batch["region_valid"][0].any() else f"nothing marked: {prompt}", -0.5, True
            )
        ]


@pytest.fixture
def finding(monkeypatch, predictor):
    stand_in = Finder()
    stand_in.tokenizer = predictor.generator.tokenizer
    found = Predictor(
        predictor.preprocessor, stand_in, predictor.params,
        checkpoint=predictor.checkpoint, config=predictor.config, files={},
    )  # fmt: skip
    monkeypatch.setattr(Predictor, "load", classmethod(lambda cls, *_, **__: found))


def test_a_detected_box_is_printed_in_pixels_and_answered_with(finding, image, capsys):
    asked = ["--checkpoint", "run", "--image", str(image), "--question", "is it healthy?"]
    assert predict.main([*asked, "--detect", "Liver"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # x 256/1023, y 0, to the right edge and the middle of 96 pixels
    assert lines[0] == "detected Liver: 24,0,72,48"
    assert lines[1] == "marked [0.0, 0.25, 0.5, 1.0]"
    assert predict.main([*asked, "--detect", "Liver", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["regions"] == [{"structure": "Liver", "box": [24.0, 0.0, 72.0, 48.0], "provenance": "detected"}]


def test_a_structure_without_a_box_is_said_and_not_shown(finding, image, capsys):
    asked = ["--checkpoint", "run", "--image", str(image), "--question", "is it healthy?", "--detect", "spleen"]
    assert predict.main(asked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "detected spleen: no box in the answer; asked without it"
    assert lines[1].startswith("nothing marked")
    assert predict.main([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["regions"][0]["box"] is None


def test_a_caption_is_asked_without_a_question(finding, image, capsys):
    assert predict.main(["--checkpoint", "run", "--image", str(image), "--task", "caption", "--language", "de"]) == 0
    assert "caption de" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["--task", "caption", "--question", "what?"], "option.conflict", "--question"),
        ([], "option.missing", "--question"),
        (["--question", "what?", "--detect", "liver", "--box=1,1,9,9"], "option.conflict", "--box"),
        (["--question", "liver", "--detect", "liver", "--task", "detect"], "option.conflict", "--task detect"),
        (["--question", "what?", "--detect", " "], "option.invalid-value", "--detect"),
        (["--question", "what?", "--detect", "liver", "--detect", "liver"], "option.invalid-value", "--detect"),
        (["--question", "what?", "--detect", "liver", "--detect", "Liver"], "option.invalid-value", "--detect"),
        (["--question", "what?", "--max-new-tokens", "0"], "option.invalid-value", "--max-new-tokens: '0'"),
        (["--question", "what?", "--show-withheld"], "option.conflict", "--show-withheld"),
        (["--question", "what?", "--boxes", "1"], "option.invalid-value", "--boxes"),
    ],
)
def test_what_does_not_fit_the_task_is_refused(finding, image, capsys, arguments, code, named):
    assert predict.main(["--checkpoint", "run", "--image", str(image), *arguments]) == 2
    assert_refused(capsys.readouterr().err, code, named)


@pytest.fixture
def refused(workdir, image, capsys):
    """Runs predict in this process with some options replaced: exit status 2 and one line, with a code and names."""

    def run(code, *named, boxes=(), extra=(), **options):
        options = {"checkpoint": workdir, "image": image, "question": "what is this?", **options}
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        arguments += [*(f"--box={box}" for box in boxes), *extra]
        assert predict.main(arguments) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert_refused(printed.err, code, *named)

    return run


@pytest.mark.parametrize("box", ["96,10,30,20", "10,99,5,30", "200,200,10,10", "-30,5,30,30"])
def test_a_box_outside_its_image_is_refused(refused, image, box):
    refused("data.invalid-region", f"box {box}", str(image), "96", boxes=[box])


def marked(predict_out):
    return json.loads(predict_out)["answer"]


@pytest.mark.parametrize(
    ("given", "cut"), [("90,10,30,20", "90,10,6,20"), ("10,90,5,30", "10,90,5,6"), ("-20,5,30,30", "0,5,10,30")]
)
def test_a_box_partly_outside_is_cut_to_its_image_and_that_is_said(finding, image, capsys, given, cut):
    asked = ["--checkpoint", "run", "--image", str(image), "--question", "is it healthy?", "--json"]
    assert predict.main([*asked, f"--box={cut}"]) == 0
    inside = capsys.readouterr()
    assert inside.err == ""
    assert predict.main([*asked, f"--box={given}"]) == 0
    printed = capsys.readouterr()
    assert (marked(printed.out), "1 boxes leave their images" in printed.err) == (marked(inside.out), True)


def test_normalised_boxes_are_refused_until_it_is_said_that_they_are(finding, refused, image, capsys):
    refused("data.unclear-boxes", "0.25,0.5,0.25,0.25", str(image), "--boxes normalised", boxes=["0.25,0.5,0.25,0.25"])
    refused("option.conflict", "--boxes", "--box", extra=["--boxes", "pixels"])
    asked = ["--checkpoint", "run", "--image", str(image), "--question", "is it healthy?", "--json"]
    answers = []
    for box in (["--box=0.25,0.5,0.25,0.25", "--boxes", "normalised"], ["--box=24,48,24,24"]):
        assert predict.main([*asked, *box]) == 0
        answers.append(marked(capsys.readouterr().out))
    assert answers == ["marked [0.5, 0.25, 0.75, 0.5]"] * 2
    refused("data.unclear-boxes", "--boxes pixels", boxes=["24,48,24,24"], extra=["--boxes", "normalised"])


@pytest.mark.parametrize("tag", [3, 6])
def test_a_box_on_a_turned_photo_is_refused_until_it_is_said_on_which_picture_it_was_drawn(
    predictor, tmp_path, caplog, tag
):
    """What a viewer shows is asked about as a file without a tag; Pillow's exif_transpose makes what is stored."""
    shown, path = Picture(), tmp_path / "photo.png"
    path.write_bytes(photo(shown, "PNG", tag))
    question, box = "what is the marked structure?", shown.square
    with expected(DataError, "data.unclear-boxes", str(path), f"orientation {tag}", "--orientation applied"):
        predictor.ask(path, question, boxes=[box])
    upright = predictor.ask(shown.pixels, question, boxes=[box])
    for form in (path, path.read_bytes(), Image.open(path)):
        assert predictor.ask(form, question, boxes=[box], orientation="applied") == upright
    assert predictor.ask(path, question, orientation="applied") == predictor.ask(shown.pixels, question)
    with Image.open(path) as opened:
        stored = np.asarray(opened)
    assert predictor.ask(path, question) == predictor.ask(stored, question)
    assert "EXIF orientation" in caplog.text
    mine = predictor.ask(stored, question, boxes=[(5, 5, 20, 20)])
    assert predictor.ask(path, question, boxes=[(5, 5, 20, 20)], orientation="stored") == mine


@pytest.mark.parametrize("box", ["10,10,0,20", "10,10,20,0", "10,10,-5,20", "nan,10,20,20", "10,10,inf,20"])
def test_a_box_of_no_area_or_of_endless_numbers_is_refused(refused, box):
    refused(None, f"box {box}", boxes=[box])


@pytest.mark.parametrize("box", ["10,10,20", "1,2,3,4,5", "a,b,c,d", "10;10;20;20", ""])
def test_a_box_that_is_not_four_numbers_is_refused(refused, box):
    refused("option.invalid-value", f"box {box}", boxes=[box])


def test_more_boxes_than_slots_are_refused(refused):
    refused(None, "2 regions", boxes=["10,10,20,20", "40,40,20,20"])


def test_a_missing_or_unreadable_image_is_named(refused, tmp_path):
    refused("image.missing", str(tmp_path / "none.png"), image=tmp_path / "none.png")
    (tmp_path / "text.png").write_text("this is no image")
    refused(None, str(tmp_path / "text.png"), image=tmp_path / "text.png")


@pytest.mark.parametrize("question", ["", "   "])
def test_an_empty_question_is_refused(refused, question):
    refused("option.missing", "--question", question=question)


def test_a_question_too_long_for_the_model_is_refused(refused):
    refused(None, "data.text_length", question="is there a spleen? " * 30)


def test_a_missing_checkpoint_is_named(refused, tmp_path):
    refused(None, str(tmp_path), checkpoint=tmp_path)
    refused(None, str(tmp_path / "none"), checkpoint=tmp_path / "none")
    refused(None, "'7'", step="7")


def test_a_wrong_sampling_setting_is_named(refused):
    refused(None, "temperature", temperature="-1")


def test_a_dicom_file_is_asked_through_a_window(workdir, predictor, tmp_path, capsys):
    """A bright square on a slope: in the bone window the slope is black, so picture and probability are others."""
    pixels = np.tile(np.arange(64, dtype=np.int16), (64, 1))
    pixels[20:40, 20:40] = 1000
    path = tmp_path / "scan.dcm"
    write_dicom(path, pixels, signed=True)
    question = "what is the marked structure?"
    asked = ["--checkpoint", str(workdir), "--image", str(path), "--question", question, "--json"]
    confidences = []
    for window in ([], ["--window", "bone"], ["--window=30:60"]):
        assert predict.main([*asked, *window]) == 0
        confidences.append(json.loads(capsys.readouterr().out)["confidence"])
    assert len(set(confidences)) == 3
    assert confidences[0] == pytest.approx(predictor.answer(str(path), question).confidence)


def test_a_window_that_is_none_is_refused(refused, image):
    refused(None, "--window", "'lungs'", "'lung'", window="lungs")
    refused(None, str(image), "frame", image=f"{image}#frame=2")

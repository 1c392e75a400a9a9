"""The command that calibrates a checkpoint, and what prediction and evaluation make of it, on a tiny run."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from rllava_jax import calibrate, predict
from rllava_jax.evaluation.predictions import read_predictions, to_json
from rllava_jax.inference.calibration import Stop, stored_calibration, write_calibration
from rllava_jax.inference.decode import Sampling
from rllava_jax.inference.predictor import Predictor
from rllava_jax.interop.export_checkpoint import export_checkpoint

QUESTION = "is there a spleen?"
# Enough questions to fit on; 14 steps teach little, so that what is fitted here is of no use.
ASKED = ["--config.data.phantom.validate_images=24", "--config.evaluation.max_examples=0"]


@pytest.fixture(scope="module")
def workdir(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrate") / "run"
    shutil.copytree(finished_run, folder)
    return folder


@pytest.fixture(scope="module")
def calibrated(workdir):
    """The run's last checkpoint, after the command has asked validation questions."""
    assert calibrate.main(["--checkpoint", str(workdir), *ASKED]) == 0
    return workdir / "checkpoints" / "14"


def test_the_command_asks_validation_and_keeps_the_answers(calibrated, workdir):
    calibration = stored_calibration(calibrated)
    asked = read_predictions(workdir / "eval" / "14-calibration" / "predictions.jsonl")
    assert {(p.split, p.condition) for p in asked} == {("validate", "right")}
    assert calibration.questions == len(asked) >= 100
    assert calibration.images == 24
    assert calibration.split == "validate"
    assert calibration.made_by["run"] == "run"
    assert calibration.made_by["step"] == 14


def test_the_same_questions_give_the_same_calibration(calibrated, workdir, capsys):
    before = stored_calibration(calibrated)
    asked = workdir / "eval" / "14-calibration"
    arguments = ["--checkpoint", str(calibrated), "--predictions", str(asked), "--target-risk", "0.3,0.1"]
    assert calibrate.main(arguments) == 0
    again = stored_calibration(calibrated)
    assert again.target_risks == (0.1, 0.3)
    # The tiny run's own settings draw 20 resamples, as those with more questions did.
    assert again.made_by["bootstrap"] == before.made_by["bootstrap"] == 20
    same = dataclasses.replace(again, target_risks=before.target_risks, made_by=before.made_by)
    assert same == before
    out = capsys.readouterr().out
    assert f"{before.questions} questions of phantom validate on 24 images" in out
    assert "0.10  cannot be promised; the lowest that can is" in out


def test_test_predictions_tell_how_it_held(calibrated, workdir, capsys):
    asked = ["--predictions", str(workdir / "eval" / "14-calibration")]
    tested = ["--test-predictions", str(workdir / "eval" / "14" / "predictions.jsonl")]
    assert calibrate.main(["--checkpoint", str(calibrated), *asked, *tested]) == 0
    out = capsys.readouterr().out
    assert "| questions | metric | n | right | none | wrong | blank |" in out
    assert "coverage@risk=0.20" in out
    assert "ece_calibrated" in out


@pytest.fixture
def refused(calibrated, capsys):
    """Runs the command on predictions that are a change of the good ones; it changes nothing and says one line."""

    def run(*arguments):
        before = (calibrated / "assets" / "calibration.json").read_bytes()
        assert calibrate.main(["--checkpoint", str(calibrated), *map(str, arguments)]) == 2
        assert (calibrated / "assets" / "calibration.json").read_bytes() == before
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        return error

    return run


@pytest.fixture
def changed(workdir, tmp_path):
    """Writes the good predictions with a change to each, and returns the file."""

    def write(change=lambda p: p, *, most=None, repeat=1):
        predictions = read_predictions(workdir / "eval" / "14-calibration" / "predictions.jsonl")
        path = tmp_path / "changed.jsonl"
        lines = [json.dumps(to_json(change(p))) for p in predictions[:most]] * repeat
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


@pytest.mark.parametrize("split", ["test", "train", "test_b"])
def test_predictions_of_test_and_training_questions_are_refused(refused, changed, split):
    path = changed(lambda p: dataclasses.replace(p, split=split))
    error = refused("--predictions", path)
    assert "on validation questions only" in error
    assert str(path) in error


def test_other_unfit_predictions_are_refused(refused, changed, tmp_path):
    twice = refused("--predictions", changed(repeat=2))
    assert "answered twice under condition 'right'" in twice
    assert "[data.duplicate-id]" in twice
    wrong = changed(lambda p: dataclasses.replace(p, condition="wrong"))
    assert "no prediction under the condition 'right'" in refused("--predictions", wrong)
    all_right = changed(lambda p: dataclasses.replace(p, prediction=p.answer))
    assert "needs at least 10 right and 10 wrong" in refused("--predictions", all_right)
    assert "99 questions" in refused("--predictions", changed(most=99))
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert "[file.malformed]" in refused("--predictions", empty)
    assert "no such file" in refused("--predictions", tmp_path / "none.jsonl")


def test_predictions_of_another_step_are_refused(refused, workdir):
    assert "is of step 8, the checkpoint of step 14" in refused("--predictions", workdir / "eval" / "8-validation")


def test_test_images_that_were_calibrated_on_are_refused(refused, changed, workdir):
    path = changed()
    error = refused("--predictions", workdir / "eval" / "14-calibration", "--test-predictions", path)
    assert "24 of its 24 images were calibrated on" in error


def test_wrong_options_are_refused(refused):
    assert "--target-risk 5" in refused("--target-risk", "5")
    assert "--target-risk a" in refused("--target-risk", "a")
    assert "only settings of data and evaluation" in refused("--config.train.duration=5 steps")
    assert "name one with --config.data.validation_split" in refused("--config.data.validation_split=")
    assert "data.validation_split: is 'train'" in refused("--config.data.validation_split=train")


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "scan.png"
    Image.linear_gradient("L").save(path)
    return path


@pytest.fixture
def told(calibrated, image, capsys):
    """Asks the command line with thresholds far below the answer's own log-probability, and just at it.

    The first may err in 30 % and answers 80 of 100, the second in 10 % and answers 20.
    """
    raw = Predictor.load(calibrated).answer(str(image), QUESTION)
    before = stored_calibration(calibrated)
    stops = (Stop(raw.log_prob, 0.9, 20, 1, 0.1, 1.0), Stop(raw.log_prob - 5, 0.4, 80, 10, 0.3, 1.0))
    write_calibration(calibrated, dataclasses.replace(before, questions=100, stops=stops))

    def run(*arguments):
        status = predict.main(
            ["--checkpoint", str(calibrated), "--image", str(image), "--question", QUESTION, *arguments]
        )
        said = capsys.readouterr()
        return status, said.out, said.err

    yield raw, run
    write_calibration(calibrated, before)


def test_confidence_is_calibrated_and_the_answer_stays(finished_run, calibrated, image):
    plain = Predictor.load(finished_run).answer(str(image), QUESTION)
    assert not plain.is_calibrated
    assert plain.confidence == plain.raw_confidence
    answer = Predictor.load(calibrated).answer(str(image), QUESTION)
    assert (answer.text, answer.log_prob, answer.finished) == (plain.text, plain.log_prob, plain.finished)
    assert answer.is_calibrated
    assert answer.raw_confidence == plain.confidence == pytest.approx(np.exp(plain.log_prob))
    calibration = stored_calibration(calibrated)
    assert answer.confidence == calibration.confidence(np.array([plain.log_prob]))[0]


def test_an_answer_below_the_risk_is_withheld(told):
    raw, run = told
    status, out, _ = run("--risk", "0.1")
    promise = "at a risk of at most 10 % this model answers 20 % of validation questions"
    assert status == 0
    assert out == f"not sure (confidence {raw.confidence:.2f}; {promise})\n"
    _, out, _ = run("--risk", "0.3")
    answer, confidence, promise = out.splitlines()
    assert answer.startswith(raw.text)
    assert confidence == f"confidence {raw.confidence:.3f} (calibrated; raw {raw.raw_confidence:.3f})"
    assert promise == "at a risk of at most 30 % this model answers 80 % of validation questions"


def test_a_withheld_answer_can_be_shown_marked(told):
    raw, run = told
    _, out, _ = run("--risk", "0.1", "--show-withheld")
    assert out.splitlines()[0].startswith("not sure (")
    assert out.splitlines()[1].startswith(f"withheld: {raw.text}")


def test_json_says_what_was_withheld(told):
    raw, run = told
    _, out, _ = run("--risk", "0.1", "--json")
    assert json.loads(out) == {
        "answer": None,
        "confidence": raw.confidence,
        "raw_confidence": raw.raw_confidence,
        "calibrated": True,
        "finished": raw.finished,
        "withheld": True,
        "risk": 0.1,
        "coverage": 0.2,
    }
    _, out, _ = run("--risk", "0.1", "--json", "--show-withheld")
    assert json.loads(out)["answer"] == raw.text
    assert json.loads(out)["withheld"]
    _, out, _ = run("--risk", "0.3", "--json")
    said = json.loads(out)
    assert (said["answer"], said["withheld"], said["coverage"]) == (raw.text, False, 0.8)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ["--risk", "0.05"],
            "--risk 0.05: cannot be promised from 100 validation questions; the lowest that can is 0.1",
        ),
        (["--risk", "1.5"], "--risk 1.5: is not a risk"),
        (["--show-withheld"], "--show-withheld: goes with --risk"),
        (["--risk", "0.1", "--temperature", "1"], "measured on greedy answers"),
        (["--risk", "0.1", "--max-new-tokens", "2"], "measured on answers of at most 6 tokens"),
        (["--risk", "0.1", "--task", "detect"], "measured on vqa, identify, without localise"),
    ],
)
def test_a_risk_that_cannot_be_promised_is_refused(told, arguments, error):
    status, out, err = told[1](*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert error in err


def test_sampled_answers_keep_their_raw_confidence(calibrated, image):
    answer = Predictor.load(calibrated, sampling=Sampling(1.0)).answer(str(image), QUESTION)
    assert not answer.is_calibrated
    assert answer.confidence == answer.raw_confidence


def test_a_risk_without_a_calibration_names_the_command(finished_run, image, capsys):
    question = ["--image", str(image), "--question", QUESTION, "--risk", "0.1"]
    assert predict.main(["--checkpoint", str(finished_run), *question]) == 2
    assert "python -m rllava_jax.calibrate --checkpoint" in capsys.readouterr().err


def test_an_evaluation_of_a_calibrated_checkpoint_has_its_rows(calibrated, workdir, command_line):
    status, _, err = command_line.run(command_line.main(workdir, "--mode", "evaluate"))
    assert status == 0, err
    rows = json.loads((workdir / "eval" / "14" / "metrics.json").read_text())
    conditions = {row["condition"] for row in rows if row["metric"] == "coverage@risk=0.20"}
    assert conditions == {"right", "none", "wrong", "blank"}


def test_an_export_has_the_calibration_and_its_card_tells_of_it(calibrated, tmp_path):
    export_checkpoint(calibrated, tmp_path / "exported")
    assert (tmp_path / "exported" / "calibration.json").read_bytes() == (
        calibrated / "assets" / "calibration.json"
    ).read_bytes()
    card = (tmp_path / "exported" / "README.md").read_text()
    temperature = stored_calibration(calibrated).temperature.value
    assert f"T = {temperature:.3f}" in card
    # Without its region branch the model answers otherwise.
    export_checkpoint(calibrated, tmp_path / "plain", plain=True)
    assert not (tmp_path / "plain" / "calibration.json").exists()
    assert "## Confidence" not in (tmp_path / "plain" / "README.md").read_text()
    export_checkpoint(calibrated, tmp_path / "exported", overwrite=True)

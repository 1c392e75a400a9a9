"""Evaluation from a checkpoint folder alone, under controls; and that it compiles once for each shape."""

import dataclasses
import json
import re
import shutil

import jax
import pytest

from data_pipelines.loading.evaluation_batches import evaluation_batches, requests_under
from data_pipelines.loading.examples import load_examples
from data_pipelines.regions.policy import NOTHING, regions_under
from rllava_jax.checkpoint.opened import OpenedCheckpoint
from rllava_jax.evaluate import main
from rllava_jax.evaluation.evaluate_options import ALL_CONTROLS, make_parser
from rllava_jax.evaluation.evaluator import evaluate_examples
from rllava_jax.evaluation.predictions import read_predictions
from rllava_jax.evaluation.scoring import score
from rllava_jax.inference.predictor import Predictor

CONDITIONS = ("right", "none", "blank", "noise", "shuffled", "question_only", "corrupted:blur:3")


@pytest.fixture(scope="module")
def workdir(finished_run, tmp_path_factory):
    """The run with nothing left but its checkpoints."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(finished_run / "checkpoints", folder / "checkpoints")
    return folder


@pytest.fixture(scope="module")
def results(workdir, tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "controls"
    arguments = ["--checkpoint", str(workdir), "--out", str(out), "--conditions", ",".join(CONDITIONS)]
    arguments += ["--sampled-runs", "3", "--temperature", "2", "--bootstrap", "20", "--seed", "9"]
    assert main(arguments) == 0
    return out


def test_the_answers_are_those_of_the_runs_own_evaluation(results, finished_run):
    before = {(p.id, p.condition): p for p in read_predictions(finished_run / "eval" / "14" / "predictions.jsonl")}
    now = {(p.id, p.condition): p for p in read_predictions(results / "predictions.jsonl")}
    shared = before.keys() & now.keys()
    assert {condition for _, condition in shared} == {"right", "none", "blank"}
    assert len(shared) == 16 * 3
    for key in shared:
        # Eight devices share what one answered there: other sums, the same numbers to float32's rounding.
        assert now[key].log_prob == pytest.approx(before[key].log_prob, abs=1e-3), key
        assert dataclasses.replace(now[key], log_prob=0, confidence=0) == dataclasses.replace(
            before[key], log_prob=0, confidence=0
        )


def test_every_condition_has_rows_and_the_controls_differences(results):
    rows = json.loads((results / "metrics.json").read_text())
    conditions = {row["condition"] for row in rows}
    assert conditions >= {
        *CONDITIONS,
        "right-none",
        "right-blank",
        "right-noise",
        "right-shuffled",
        "none-question_only",
    }
    assert all(row["n"] == 16 for row in rows if row["subset"] == "all" and row["metric"] == "accuracy")
    assert "shuffled" in (results / "report.html").read_text() or "noise" in (results / "report.html").read_text()


def test_intervals_are_those_of_the_resamples_and_the_seed_asked_for(results):
    predictions = read_predictions(results / "predictions.jsonl")
    found = json.loads((results / "metrics.json").read_text())
    asked_for, other = (score(predictions, bootstrap=20, seed=seed) for seed in (9, 10))
    assert found[: len(asked_for)] == asked_for != other


def test_sampled_runs_answer_every_question_so_often(results):
    lines = [json.loads(line) for line in (results / "sampled.jsonl").read_text().splitlines()]
    asked = [(p.id, p.condition) for p in read_predictions(results / "predictions.jsonl")]
    assert sorted((line["id"], line["condition"], line["run"]) for line in lines) == sorted(
        (*one, run) for one in asked for run in range(3)
    )
    answers = {}
    for line in lines:
        answers.setdefault((line["id"], line["condition"]), set()).add(line["answer"])
    assert any(len(given) > 1 for given in answers.values())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--conditions", "right,nosie"], "did you mean 'noise'?"),
        (["--families", "identfy"], "evaluation.families.0: 'identfy'"),
        (["--split", "tset"], "tset"),
        (["--data", "slake"], "data.root"),
        (["--batch-size", "0"], "--batch-size: '0'"),
        (["--bootstrap", "-1"], "--bootstrap: '-1'"),
        (["--batch-size", "7"], "--batch-size 7: 8 devices"),
        (["--protocol", "llava_med_legacy"], "--protocol llava_med_legacy"),
        (["--max-examples", "-1"], "--max-examples: '-1'"),
        (["--step", "99"], "99"),
        (["--sampled-runs", "0"], "--sampled-runs: '0'"),
        (["--sampled-runs", "2", "--temperature", "0"], "--temperature: '0'"),
        (["--temperature", "1"], "--temperature 1.0: goes with --sampled-runs"),
    ],
)
def test_what_cannot_be_asked_is_told_in_one_line(workdir, tmp_path, capsys, arguments, named):
    assert main(["--checkpoint", str(workdir), "--out", str(tmp_path / "out"), *arguments]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: .* \[(option|config|data|file|checkpoint|mesh)\.[a-z-]+\]\n", said)
    assert named in said
    assert not (tmp_path / "out").exists()


def test_earlier_results_are_not_written_over(workdir, results, capsys):
    before = (results / "predictions.jsonl").read_bytes()
    assert main(["--checkpoint", str(workdir), "--out", str(results)]) == 2
    assert f"--out {results}: holds results already" in capsys.readouterr().err
    assert (results / "predictions.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_part_of_the_questions_is_said_with_how_to_evaluate_all_and_resamples_may_be_none(workdir, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--checkpoint", str(workdir), "--out", str(out), "--conditions", "right", "--families", "vqa"]
    assert main([*arguments, "--bootstrap", "0"]) == 0
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "max_examples" in line]
    whole = len(load_examples_of(workdir, "vqa"))
    assert f"8 of {whole} vqa questions" in said
    assert "--max-examples 0" in said
    assert f"8 of {whole} vqa questions" in (out / "report.html").read_text()
    rows = json.loads((out / "metrics.json").read_text())
    assert {(row["ci_low"], row["ci_high"]) for row in rows} == {(None, None)}
    assert {row["n"] for row in rows if row["subset"] == "all"} == {8}


def load_examples_of(workdir, family):
    stored = OpenedCheckpoint.open(workdir, None).config
    examples = load_examples(stored.data, stored.data.test_split, seed=stored.seed, max_regions=4)
    return [example for example in examples if example.family == family]


def test_controls_are_one_flag():
    options = make_parser("").parse_args(["--checkpoint", "x", "--out", "y", "--controls"])
    assert options.controls
    assert ALL_CONTROLS[:7] == ("right", "none", "wrong", "blank", "noise", "shuffled", "question_only")
    assert ALL_CONTROLS[7:10] == ("corrupted:noise:1", "corrupted:noise:3", "corrupted:noise:5")
    assert len(ALL_CONTROLS) == 7 + 5 * 3


@pytest.fixture(scope="module")
def asked(workdir):
    """A predictor on one device, and enough short and long questions that two text lengths are worth compiling."""
    predictor = Predictor.load(workdir)
    config = predictor.config
    found = load_examples(config.data, "test", seed=config.seed, max_regions=config.regions.max_regions)
    found = [example for example in found if example.family in ("vqa", "identify")][:16]
    longer = [
        dataclasses.replace(one, id=f"{one.id}/longer", question=f"{one.question} is it marked at all, or is it not?")
        for one in found
    ]
    mixed = [example for pair in zip(longer, found, strict=True) for example in pair]
    lengths = [predictor.preprocessor.prompt_tokens(one, NOTHING) for one in mixed]
    assert max(lengths) <= config.data.text_length
    assert len({-(-length // 8) for length in lengths}) > 1
    return predictor, mixed


@pytest.mark.parametrize("condition", ["right", "none"])
def test_sorted_and_cut_batches_give_the_answers_of_whole_ones_in_the_original_order(asked, condition):
    predictor, examples = asked
    preprocessor = predictor.preprocessor
    settings = dataclasses.replace(predictor.config.evaluation, conditions=(condition,), batch_size=2)
    found = evaluate_examples(predictor.generator, predictor.params, preprocessor, examples, settings)
    assert [prediction.id for prediction in found] == [example.id for example in examples]
    for prediction, example in zip(found, examples, strict=True):
        # The text padded to its full length, every region slot there, and alone.
        arrays = preprocessor.evaluation(example, regions_under(example, condition, ()))
        assert arrays["text"].shape == (preprocessor.data.text_length,)
        batch = {name: array[None] for name, array in arrays.items()}
        alone = predictor.generator.answer(predictor.params, batch)[0]
        assert prediction.prediction == alone.text
        assert prediction.log_prob == pytest.approx(alone.log_prob, abs=1e-3)


def test_batches_of_an_evaluation_are_cut_to_few_shapes(asked):
    predictor, examples = asked
    for condition, slots in (("right", {1}), ("none", {0})):
        batches = evaluation_batches(requests_under(examples, condition, ()), predictor.preprocessor, 2, alike=True)
        shapes = {(batch["regions"].shape[1], batch["text"].shape[1]) for batch, _ in batches}
        assert {shape[0] for shape in shapes} <= {0, *slots}
        assert slots <= {shape[0] for shape in shapes}
        assert len(shapes) > 1


def test_each_shape_is_compiled_once_whatever_the_conditions(asked):
    predictor, examples = asked
    generator = predictor.generator
    settings = dataclasses.replace(predictor.config.evaluation, conditions=CONDITIONS, batch_size=2)
    generator._run.clear_cache()
    evaluate_examples(generator, predictor.params, predictor.preprocessor, examples, settings)
    programs = generator._run._cache_size()
    assert 1 < programs <= 6
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    evaluate_examples(generator, predictor.params, predictor.preprocessor, examples, settings)
    assert generator._run._cache_size() == programs
    assert not compiled

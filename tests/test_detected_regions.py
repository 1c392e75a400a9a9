"""The model's own box as the region: which structure is looked for, what is shown, and what is counted."""

import io

import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.records import Region, VQAExample
from data_pipelines.regions.boxes import box_to_loc_tokens, first_box
from data_pipelines.regions.named_structures import structures_to_detect
from data_pipelines.text.tokenizer import train_tokenizer
from rllava_jax.config import Config, ConfigError, DataConfig, EvaluationConfig, RegionConfig
from rllava_jax.config.loading import validated
from rllava_jax.evaluation.detected_regions import detected_rows, region_sources
from rllava_jax.evaluation.evaluator import evaluate_examples
from rllava_jax.evaluation.scoring import score
from rllava_jax.inference.generator import GeneratedAnswer
from rllava_jax.report.run_report import write_report

LIVER, SPLEEN = Region((0.0, 0.0, 0.5, 0.5), "Liver"), Region((0.5, 0.5, 1.0, 1.0), "Spleen")
QUESTIONS = {
    "liver": "is the liver healthy?",
    "again": "what colour is the liver?",
    "spleen": "is the spleen healthy?",
    "both": "is the liver brighter than the spleen?",
    "plain": "what modality is this?",
    "presence": "is there a liver in this image?",
}
HALF = (0.0, 0.0, 0.5, 1.0)  # covers the liver's box twice: an IoU of one half


class Finder:
    """Finds the liver and no spleen; answers yes where it is shown a region."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.asked = []

    def answer(self, params, batch):
        answers = []
        for text, real, valid in zip(batch["text"], batch["mask_input"], batch["region_valid"], strict=True):
            prompt = self.tokenizer.decode(text[real.astype(bool)].tolist()).strip()
            self.asked.append((prompt, bool(valid.any())))
            if prompt.startswith("detect"):
                said = f"{box_to_loc_tokens(HALF)} liver" if "liver" in prompt else "<loc0009><loc0009> spleen"
            else:
                said = "yes" if valid.any() else "no"
            answers.append(GeneratedAnswer(said, -0.5, True))
        return answers


def png():
    buffer = io.BytesIO()
    Image.new("L", (32, 32), 90).save(buffer, "PNG")
    return buffer.getvalue()


def example(name, family="vqa"):
    regions = {"liver": (LIVER,), "again": (LIVER,), "spleen": (SPLEEN,)}.get(name, ())
    return VQAExample(
        name, "made", "test", png(), "image", QUESTIONS.get(name, "what is marked?"), "yes", family=family,
        answer_type="closed", regions=regions or ((LIVER,) if family != "vqa" else ()), distractors=(LIVER, SPLEEN),
        provenance="question" if regions else "",
    )  # fmt: skip


@pytest.fixture(scope="module")
def preprocessor(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "t.model"
    tokenizer = train_tokenizer(
        [f"answer en {question} detect yes no" for question in QUESTIONS.values()], path, vocab_size=300
    )
    return Preprocessor(28, 14, RegionConfig(crop_size=28, tokens=4), DataConfig(text_length=64), tokenizer)


@pytest.fixture(scope="module")
def asked(preprocessor):
    """The answers under right, none and detected, and everything that was asked."""
    examples = [example(name) for name in QUESTIONS] + [example("identify", "identify")]
    config = EvaluationConfig(conditions=("right", "none", "detected"), batch_size=1, max_examples=0)
    finder = Finder(preprocessor.tokenizer)
    return evaluate_examples(finder, "params", preprocessor, examples, config), finder.asked


def detected(predictions):
    return {p.id: p for p in predictions if p.condition == "detected"}


def test_a_question_is_answered_with_the_box_that_the_model_found(asked):
    found = detected(asked[0])["liver"]
    assert found.boxes == (first_box(box_to_loc_tokens(HALF)),)
    assert found.prediction == "yes"
    assert (found.shown_kind, found.provenance) == ("detected", "detected")
    assert found.right_boxes == (LIVER.box,)
    assert found.box_labels == ("",)  # nobody knows what lies in it


def test_each_reason_to_show_no_region_is_told_apart(asked):
    kinds = {name: p.shown_kind for name, p in detected(asked[0]).items()}
    assert kinds == {
        "liver": "detected",
        "again": "detected",
        "spleen": "none:no box",
        "both": "none:too many",
        "plain": "none",
        "presence": "none",
    }
    for name in ("spleen", "both", "plain", "presence"):
        p = detected(asked[0])[name]
        assert (p.boxes, p.prediction, p.provenance) == ((), "no", "")
    assert detected(asked[0])["spleen"].right_boxes == (SPLEEN.box,)


def test_only_ordinary_questions_are_asked_so(asked):
    assert "identify" not in detected(asked[0])
    assert sum(p.id == "identify" for p in asked[0]) == 2


def test_a_structure_is_looked_for_once_an_image_and_known_answers_are_kept(asked):
    prompts = [prompt for prompt, _ in asked[1]]
    assert prompts.count("detect liver") == 1
    assert prompts.count("detect spleen") == 1
    # Under right, none and detected for the two that have or find a region; the others once, without.
    assert prompts.count(f"answer en {QUESTIONS['liver']}") == 3
    assert prompts.count(f"answer en {QUESTIONS['spleen']}") == 2
    assert prompts.count(f"answer en {QUESTIONS['plain']}") == 1


def test_names_to_look_for_can_be_given(preprocessor):
    """As for a data set without boxes."""
    config = EvaluationConfig(conditions=("none", "detected"), structures=("Spleen",), batch_size=1)
    plain = [VQAExample(n, "made", "test", png(), "image", QUESTIONS[n], "yes") for n in ("liver", "spleen")]
    found = detected(evaluate_examples(Finder(preprocessor.tokenizer), "params", preprocessor, plain, config))
    assert {name: p.shown_kind for name, p in found.items()} == {"liver": "none", "spleen": "none:no box"}


def test_how_often_and_how_well_it_was_found_become_rows(asked):
    found = {row["metric"]: row for row in detected_rows(asked[0], bootstrap=0, seed=0)}
    # liver and again found; spleen not; both too many: 2 of 4. Annotated: 0.5, 0.5 and 0 for the spleen.
    assert (found["box_found"]["value"], found["box_found"]["n"]) == (0.5, 4)
    assert found["box_iou"]["value"] == pytest.approx(1 / 3, abs=1e-3)
    assert (found["box_iou"]["n"], found["box_iou"]["subset"]) == (3, "has_region=yes")
    assert detected_rows([p for p in asked[0] if p.condition != "detected"], bootstrap=0, seed=0) == []


def test_accuracy_stands_beside_that_of_the_right_region_and_of_none(asked):
    index = {(r["subset"], r["condition"], r["metric"]): r["value"] for r in score(asked[0], bootstrap=0, seed=0)}
    assert [index["has_region=yes", c, "accuracy"] for c in ("right", "none")] == [1, 0]
    assert index["has_region=yes", "detected", "accuracy"] == pytest.approx(2 / 3)
    assert index["has_region=yes", "right-detected", "accuracy"] == pytest.approx(1 / 3)
    assert index["has_region=yes", "detected-none", "accuracy"] == pytest.approx(2 / 3)


def test_the_report_tells_where_regions_come_from(asked, tmp_path):
    predictions = asked[0]
    assert region_sources(predictions) == "not recorded 1, question 3; found by the model 2"
    figures = score(predictions, bootstrap=20, seed=0) + detected_rows(predictions, bootstrap=20, seed=0)
    write_report(
        tmp_path / "report.html", title="made", rows=figures, predictions=predictions, images=lambda p: png(), run={}
    )
    page = (tmp_path / "report.html").read_text()
    assert "Of 6 ordinary questions 4 name a structure to detect" in page
    assert "own box with 2; 1 were evaluated without one because its answer had no box, and 1 because" in page
    assert "Right − detected" in page


def test_questions_of_presence_and_number_name_nothing_to_detect():
    names = ("Liver", "Left Kidney", "Right Kidney")
    assert structures_to_detect("Is the liver normal?", names) == ("liver",)
    assert structures_to_detect("Are the kidneys alike?", names) == ("left kidney", "right kidney")
    assert structures_to_detect("Does the picture contain liver?", names) == ()
    assert structures_to_detect("How many kidneys are there?", names) == ()


@pytest.mark.parametrize("text", ["", "liver", "<loc0001><loc0002><loc0003>", "<loc0900><loc0000><loc0100><loc0500>"])
def test_an_answer_without_a_whole_box_is_none(text):
    assert first_box(text) is None


def test_the_first_of_several_boxes_counts():
    assert first_box(f"{box_to_loc_tokens(HALF)} ; {box_to_loc_tokens(LIVER.box)}") == pytest.approx(HALF, abs=1e-3)


@pytest.mark.parametrize(
    ("evaluation", "code", "field"),
    [
        (EvaluationConfig(conditions=("right", "detected")), "config.conflict", "evaluation.conditions"),
        (EvaluationConfig(structures=("liver",)), "config.conflict", "evaluation.structures"),
        (
            EvaluationConfig(conditions=("none", "detected"), structures=(" ",)),
            "config.invalid-value",
            "evaluation.structures",
        ),
    ],
)
def test_settings_that_say_nothing_are_refused(evaluation, code, field):
    with refused(ConfigError, code, field):
        validated(Config(evaluation=evaluation))

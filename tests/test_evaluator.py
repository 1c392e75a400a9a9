"""How questions are put to a model: every one under every condition, none twice."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from data_pipelines.core.errors import DataError
from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.records import Region, VQAExample
from data_pipelines.text.tokenizer import train_tokenizer
from rllava_jax.config import DataConfig, EvaluationConfig, RegionConfig
from rllava_jax.evaluation.evaluator import choose_examples, evaluate_examples
from rllava_jax.inference.generator import GeneratedAnswer

LEFT, RIGHT = Region((0.1, 0.1, 0.4, 0.4), "Liver"), Region((0.6, 0.6, 0.9, 0.9), "Spleen")


class EchoAnswerer:
    """Answers with what it was shown: the first box, and whether the picture was blank."""

    def __init__(self):
        self.asked = 0

    def answer(self, params, batch):
        assert params == "params"
        rows = zip(batch["regions"][:, 0], batch["region_valid"][:, 0], batch["image"], strict=True)
        answers = []
        for box, valid, image in rows:
            self.asked += 1
            seen = "blank" if np.ptp(image) == 0 else "seen"
            answers.append(
                GeneratedAnswer(f"{seen} {np.round(box.astype(float), 2).tolist() if valid else 'nothing'}", -0.5, True)
            )
        return answers


def png():
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)).save(buffer, "PNG")
    return buffer.getvalue()


def example(name, family="identify", regions=(LEFT,), distractors=(RIGHT,)):
    return VQAExample(
        name, "made", "test", png(), f"image of {name}", "which one?", "liver", family=family,
        regions=regions, distractors=distractors,
    )  # fmt: skip


@pytest.fixture
def preprocessor(tmp_path):
    tokenizer = train_tokenizer(["answer en which one? liver"], tmp_path / "t.model", vocab_size=300)
    return Preprocessor(28, 14, RegionConfig(crop_size=28, tokens=4), DataConfig(text_length=64), tokenizer)


def test_every_question_is_answered_under_every_condition_in_order(preprocessor):
    examples = [example("a"), example("b", "vqa", (), (LEFT, RIGHT)), example("c")]
    config = EvaluationConfig(batch_size=2, wrong_kinds=("another",))
    generator = EchoAnswerer()
    predictions = evaluate_examples(generator, "params", preprocessor, examples, config)
    told = {(p.id, p.condition): p.prediction for p in predictions}
    assert [p.id for p in predictions] == ["a", "b", "c"] * 4
    assert told["a", "right"] == "seen [0.1, 0.1, 0.4, 0.4]"
    assert told["a", "none"] == "seen nothing"
    assert told["a", "wrong"] == "seen [0.6, 0.6, 0.9, 0.9]"
    assert told["a", "blank"] == "blank [0.1, 0.1, 0.4, 0.4]"
    assert told["b", "right"] == told["b", "none"] == told["b", "wrong"] == "seen nothing"
    assert told["b", "blank"] == "blank nothing"


def test_a_question_that_shows_no_region_is_decoded_once(preprocessor):
    generator = EchoAnswerer()
    examples = [example(str(n), "vqa", (), (LEFT,)) for n in range(4)]
    predictions = evaluate_examples(generator, "params", preprocessor, examples, EvaluationConfig(batch_size=4))
    assert len(predictions) == 16
    assert generator.asked == 8  # once on the scan, once on the blank image


def test_blank_and_question_only_share_what_shows_no_region(preprocessor):
    generator = EchoAnswerer()
    examples = [example("a"), example("b", "vqa", (), (LEFT,))]
    config = EvaluationConfig(batch_size=1, conditions=("blank", "question_only"))
    told = {
        (p.id, p.condition): p.prediction
        for p in evaluate_examples(generator, "params", preprocessor, examples, config)
    }
    assert told["a", "blank"] == "blank [0.1, 0.1, 0.4, 0.4]"
    assert told["a", "question_only"] == told["b", "question_only"] == told["b", "blank"] == "blank nothing"
    assert generator.asked == 3


def test_noise_and_shuffled_images_are_asked_for_themselves(preprocessor):
    generator = EchoAnswerer()
    examples = [example(name, "vqa", (), (LEFT,)) for name in "abc"]
    config = EvaluationConfig(batch_size=1, conditions=("right", "none", "noise", "shuffled", "corrupted:blur:1"))
    assert len(evaluate_examples(generator, "params", preprocessor, examples, config)) == 15
    assert generator.asked == 3 * 4


def test_shuffled_takes_images_of_the_whole_split(preprocessor):
    split = [example("a"), example("b")]
    config = EvaluationConfig(batch_size=1, conditions=("shuffled",))
    (asked,) = evaluate_examples(EchoAnswerer(), "params", preprocessor, split[:1], config, split=split)
    assert asked.prediction == "seen [0.1, 0.1, 0.4, 0.4]"
    assert asked.image_id == "image of a"  # intervals are clustered by the question's own image
    with pytest.raises(DataError, match="needs another image"):
        evaluate_examples(EchoAnswerer(), "params", preprocessor, split[:1], config)


def test_a_detected_box_belongs_to_its_structure_whatever_batch_found_it(preprocessor):
    """Prompts of like length share batches, so the long name, which comes first, is looked for last."""
    long = "anterior segment of the left upper lobe"

    class Detector:
        def answer(self, params, batch):
            texts = [preprocessor.tokenizer.decode(row.tolist()) for row in batch["text"]]
            place = {True: "<loc0102><loc0102><loc0409><loc0409>", False: "<loc0614><loc0614><loc0921><loc0921>"}
            return [GeneratedAnswer(place[long in text], -0.5, True) for text in texts]

    questions = [f"how does the {long} look?", "how does the spleen look?"]
    examples = [dataclasses.replace(example(str(n), "vqa"), question=q) for n, q in enumerate(questions)]
    config = EvaluationConfig(batch_size=1, conditions=("detected",), structures=(long, "spleen"))
    first, second = evaluate_examples(Detector(), "params", preprocessor, examples, config)
    assert np.round(first.boxes, 1).tolist() == [[0.1, 0.1, 0.4, 0.4]]
    assert np.round(second.boxes, 1).tolist() == [[0.6, 0.6, 0.9, 0.9]]


def test_what_was_shown_is_told_with_the_answer(preprocessor):
    config = EvaluationConfig(batch_size=1, conditions=("wrong",), wrong_kinds=("another",))
    (prediction,) = evaluate_examples(EchoAnswerer(), "params", preprocessor, [example("a")], config)
    assert prediction.shown_kind == "wrong:another"
    assert prediction.boxes == (RIGHT.box,)
    assert prediction.box_labels == ("Spleen",)
    assert prediction.right_boxes == (LEFT.box,)
    assert prediction.confidence == pytest.approx(np.exp(-0.5))


def test_a_subset_is_the_same_whatever_the_order_and_keeps_small_families_whole():
    many = [example(str(n)) for n in range(50)] + [example("v", "verify")]
    chosen = choose_examples(many, ("identify", "verify"), most=10)
    again = choose_examples(many[::-1], ("identify", "verify"), most=10)
    assert len(chosen) == 11
    assert {e.id for e in chosen} == {e.id for e in again}
    assert [e.id for e in chosen[:10]] != [str(n) for n in range(10)]
    assert choose_examples(many, ("verify",), most=0) == [many[-1]]

"""Conversations of several turns, and captions: layout, masks, and what the model makes of them."""

import jax
import numpy as np
import pytest
from single_prompts import encode_prompt
from small_runs import CONFIG, VOCAB, batch, made, one_device
from test_loader import png

from data_pipelines.core.errors import DataError
from data_pipelines.loading.checks import check_lengths
from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.records import Region, Turn, VQAExample
from data_pipelines.regions.policy import Shown
from data_pipelines.text.prompt import count_tokens, encode_conversation, format_prefix
from data_pipelines.text.tokenizer import Tokenizer, train_tokenizer
from rllava_jax.config import DataConfig, PolicyConfig, RegionConfig
from rllava_jax.model.inputs import Inputs
from rllava_jax.model.params import merge
from rllava_jax.training.program import initial_state

TURNS = [("answer en where?", "here"), ("answer en what?", "a liver"), ("answer en well?", "yes")]
BOX = (0.0, 0.25, 0.5, 1.0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    texts = ["answer en where what well?", "here a liver yes", "caption en", "detect"] * 5
    return train_tokenizer(texts, tmp_path_factory.mktemp("talk") / "small.model", vocab_size=320)


@pytest.fixture
def preprocessor(tokenizer) -> Preprocessor:
    data = DataConfig(text_length=60, policy=PolicyConfig(shown=1.0, wrong=0.0))
    return Preprocessor(28, 14, RegionConfig(encoders=("loc",)), data, tokenizer)


def conversation(**changes) -> VQAExample:
    fields = {
        "id": "talk/7",
        "dataset": "talk",
        "split": "train",
        "image": png(0),
        "image_id": "image0",
        "question": "well?",
        "answer": "yes",
        "turns": (Turn("where?", "here"), Turn("what?", "a liver")),
        "regions": (Region(BOX, "liver"),),
    }
    return VQAExample(**{**fields, **changes})


def test_layout_and_masks_of_three_turns_by_hand(tokenizer):
    (p1, a1), (p2, a2), (p3, a3) = [(tokenizer.encode(p), tokenizer.encode(a)) for p, a in TURNS]
    nl = tokenizer.newline_id
    rows = [
        # piece, causal, learnt
        ([2, *p1, nl], 0, 0),
        ([*a1, 1], 1, 1),
        ([*p2, nl], 1, 0),
        ([*a2, 1], 1, 1),
        ([*p3, nl], 1, 0),
        ([*a3, 1], 1, 1),
    ]
    text = [token for piece, _, _ in rows for token in piece]
    padding = 80 - len(text)
    tokens = encode_conversation(tokenizer, TURNS, 80, "x", answered=True)
    assert tokens.text.tolist() == text + [0] * padding
    assert tokens.mask_ar.tolist() == [ar for piece, ar, _ in rows for _ in piece] + [1] * padding
    assert tokens.mask_loss.tolist() == [loss for piece, _, loss in rows for _ in piece] + [0] * padding
    assert tokens.mask_input.tolist() == [1] * len(text) + [0] * padding
    assert {array.dtype for array in tokens} == {np.dtype(np.int32)}
    assert count_tokens(tokenizer, TURNS) == len(text)


def test_the_prompt_of_a_conversation_is_what_training_put_before_the_last_answer(tokenizer):
    asked = encode_conversation(tokenizer, TURNS, 80, "x", answered=False)
    trained = encode_conversation(tokenizer, TURNS, 80, "x", answered=True)
    used = int(asked.mask_input.sum())
    assert count_tokens(tokenizer, TURNS, answered=False) == used
    assert asked.text[used - 1] == tokenizer.newline_id
    assert asked.text[:used].tolist() == trained.text[:used].tolist()
    assert asked.mask_ar.tolist() == trained.mask_ar.tolist()
    assert asked.mask_loss.sum() == 0
    learnt = trained.text[used:][trained.mask_loss[used:] == 1]
    assert tokenizer.decode(learnt) == "yes"
    # Every earlier answer stands there in full, with its eos.
    assert (asked.text[:used] == tokenizer.eos_id).sum() == 2


def test_one_turn_is_a_question(tokenizer):
    for answer, answered in (("here", True), (None, False)):
        one = encode_prompt(tokenizer, "answer en where?", answer, 40, "x")
        other = encode_conversation(tokenizer, [("answer en where?", answer or "")], 40, "x", answered=answered)
        for left, right in zip(one, other, strict=True):
            np.testing.assert_array_equal(left, right)


def test_regions_stand_in_the_first_prefix_alone(preprocessor):
    turns = preprocessor.turns(conversation(), [BOX])
    assert turns == [
        ("answer en <loc0000><loc0256><loc0512><loc1023> where?", "here"),
        ("answer en what?", "a liver"),
        ("answer en well?", "yes"),
    ]


def test_every_answer_is_learnt_and_asked_with_the_earlier_ones(preprocessor, tokenizer):
    arrays = preprocessor.training(conversation(), np.random.default_rng(0))
    learnt = arrays["text"][arrays["mask_loss"] == 1]
    ends = np.flatnonzero(learnt == tokenizer.eos_id)
    answers = np.split(learnt, ends + 1)
    assert [tokenizer.decode(answer[:-1]) for answer in answers[:-1]] == ["here", "a liver", "yes"]
    asked = preprocessor.evaluation(conversation(), Shown((Region(BOX),), "right"))
    used = int(asked["mask_input"].sum())
    assert asked["text"][:used].tolist() == arrays["text"][:used].tolist()


def test_a_conversation_too_long_is_named(preprocessor):
    long = conversation(turns=(Turn("where?", "here " * 60),))
    with pytest.raises(DataError, match=r"1 examples do not fit .*: talk/7 \((\d+) tokens\); raise it to \1"):
        check_lengths([conversation(), long], preprocessor)
    with pytest.raises(DataError, match=r"talk/7: \d+ tokens do not fit"):
        preprocessor.training(long, np.random.default_rng(0))
    # An earlier answer is part of the prompt, too.
    with pytest.raises(DataError, match="1 examples do not fit"):
        check_lengths([long], preprocessor, answers=False)


def test_an_empty_question_of_an_earlier_turn_is_named(preprocessor):
    with pytest.raises(DataError, match="talk/7: question is empty"):
        preprocessor.turns(conversation(turns=(Turn(" ", "here"),)), [])


def test_a_caption_asks_nothing(preprocessor, tokenizer):
    example = conversation(question="", answer="a liver", family="caption", task="caption", turns=(), regions=())
    assert preprocessor.turns(example, []) == [("caption en", "a liver")]
    arrays = preprocessor.training(example, np.random.default_rng(0))
    assert tokenizer.decode(arrays["text"][arrays["mask_loss"] == 1]) == "a liver"
    assert format_prefix(DataConfig().prompt, "caption", question="", language="zh", where="x") == "caption zh"


@pytest.mark.slow
def test_a_later_turn_changes_nothing_about_an_earlier_answer():
    """On the model: states of the first answer do not see what follows."""
    program = made(CONFIG, one_device())
    params = initial_state(CONFIG, program, vocab=VOCAB).inference_params
    given = batch()
    # prefix 2, answer 2, question 2, answer 2
    given["mask_input"][:] = 1
    given["mask_ar"][:] = [0, 0, 1, 1, 1, 1, 1, 1]
    given["text"] = np.random.default_rng(1).integers(4, VOCAB, given["text"].shape).astype(np.int32)
    other = {**given, "text": given["text"].copy()}
    other["text"][:, 4:] = (other["text"][:, 4:] + 1) % VOCAB

    @jax.jit
    def states(batch):
        return merge(program.graphdef, params).hidden_states(Inputs.from_batch(batch))

    one, two = states(given), states(other)
    np.testing.assert_array_equal(one[:, :4], two[:, :4])
    assert (np.asarray(one[:, 4:]) != np.asarray(two[:, 4:])).any()

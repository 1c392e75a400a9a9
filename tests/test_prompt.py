"""Prompts: PaliGemma's layout and masks, templates, and what is refused."""

import numpy as np
import pytest
from expected_errors import refused
from single_prompts import encode_prompt

from data_pipelines.core.errors import DataError
from data_pipelines.text.prompt import count_tokens, format_prefix
from data_pipelines.text.tokenizer import Tokenizer, train_tokenizer
from rllava_jax.config import DataConfig

TEMPLATES = DataConfig().prompt


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    texts = ["answer en where is the left kidney?", "liver", "yes", "detect spleen"] * 5
    return train_tokenizer(texts, tmp_path_factory.mktemp("prompt") / "small.model", vocab_size=320)


def prefix(question="where is the liver?", **kwargs) -> str:
    return format_prefix(TEMPLATES, "answer", question=question, language="en", where="slake/en/7", **kwargs)


def test_training_layout_is_bos_prefix_newline_suffix_eos_padding(tokenizer):
    p, s = tokenizer.encode("answer en where?"), tokenizer.encode("liver")
    tokens = encode_prompt(tokenizer, "answer en where?", "liver", 40, "x")
    used = 1 + len(p) + 1 + len(s) + 1
    assert tokens.text.tolist() == [2, *p, tokenizer.newline_id, *s, 1] + [0] * (40 - used)
    assert tokens.mask_ar.tolist() == [0] * (len(p) + 2) + [1] * (40 - len(p) - 2)
    assert tokens.mask_loss.tolist() == [0] * (len(p) + 2) + [1] * (len(s) + 1) + [0] * (40 - used)
    assert tokens.mask_input.tolist() == [1] * used + [0] * (40 - used)
    assert {a.dtype for a in tokens} == {np.dtype(np.int32)}


def test_prompt_alone_has_nothing_to_learn_and_ends_with_the_newline(tokenizer):
    tokens = encode_prompt(tokenizer, "answer en where?", None, 40, "x")
    assert tokens.mask_loss.sum() == 0
    assert tokens.text[tokens.mask_input.sum() - 1] == tokenizer.newline_id


def test_prompt_is_what_training_put_before_the_answer(tokenizer):
    alone = encode_prompt(tokenizer, prefix(), None, 40, "x")
    trained = encode_prompt(tokenizer, prefix(), "liver", 40, "x")
    n = alone.mask_input.sum()
    assert (alone.text[:n] == trained.text[:n]).all()
    assert trained.mask_loss[:n].sum() == 0
    assert trained.mask_loss[n] == 1


def test_empty_answer_teaches_eos_at_once(tokenizer):
    tokens = encode_prompt(tokenizer, "answer en where?", "", 40, "x")
    assert tokens.text[tokens.mask_loss == 1].tolist() == [tokenizer.eos_id]


def test_text_that_just_fits_is_kept_whole_and_one_more_token_is_refused(tokenizer):
    used = count_tokens(tokenizer, [(prefix(), "liver")])
    assert encode_prompt(tokenizer, prefix(), "liver", used, "x").mask_input.all()
    with refused(DataError, "data.too-long", "slake/en/7", f"data.text_length = {used - 1}", f"raise it to {used}"):
        encode_prompt(tokenizer, prefix(), "liver", used - 1, "slake/en/7")


def test_shown_boxes_stand_as_loc_tokens_before_the_question():
    assert prefix() == "answer en where is the liver?"
    assert (
        prefix(boxes_in_prompt=[(0.0, 0.25, 0.5, 1.0)])
        == "answer en <loc0000><loc0256><loc0512><loc1023> where is the liver?"
    )


def test_detect_template_names_the_thing():
    assert format_prefix(TEMPLATES, "detect", question="liver", language="en", where="x") == "detect liver"


def test_braces_in_a_question_are_text():
    assert prefix("is {this} {0} a question?") == "answer en is {this} {0} a question?"


@pytest.mark.parametrize("question", ["", "  \n"])
def test_empty_question_is_refused_by_name(question):
    with refused(DataError, "data.missing-field", "slake/en/7", "question"):
        prefix(question)

"""An exported folder with regions, in three versions of transformers: the same arrays, logits and tokens as here."""

import pickle
import warnings

import ask_exported
import numpy as np
import pytest
import torch
from golden_model import assert_close
from other_transformers import run_with_transformers
from remote_code_folders import export, project_answers, project_arrays, questions, tiny_config
from transformers import AutoModelForImageTextToText, AutoProcessor

SUFFIXES = ["yes", "left lung", "a kidney in the image"]
MODELS = {
    "gemma1": {"encoders": ("crop", "align", "overlay", "loc"), "outlines": True},
    "gemma2": {"encoders": ("crop", "align"), "gemma2": True},
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Exported folders by name, each with its questions, made once."""
    root, made = tmp_path_factory.mktemp("exported"), {}

    def make(name):
        if name not in made:
            config = tiny_config(**MODELS[name])
            made[name] = export(config, root / name), questions(masks=config.regions.outlines)
        return made[name]

    return make


@pytest.fixture(scope="module")
def project(exported, tmp_path_factory):
    """Arrays, logits and tokens of this project, by the folder's name, made once."""
    scratch, made = tmp_path_factory.mktemp("masks"), {}

    def make(name):
        if name not in made:
            arrays = project_arrays(*exported(name), scratch)
            taught = project_arrays(*exported(name), scratch, suffixes=SUFFIXES)
            answered = project_answers(exported(name)[0], arrays, taught)
            made[name] = {"arrays": arrays, "taught": taught} | answered
        return made[name]

    return make


@pytest.fixture(scope="module", params=sorted(MODELS))
def model(request, exported):
    return exported(request.param)


@pytest.fixture
def ours(model, project):
    return project(model[0].folder.name)


@pytest.fixture(scope="module", params=["5.23", "4.57", "5.24"])
def theirs(request, model, tmp_path_factory):
    """What `ask_exported` found in one version of transformers."""
    exported, asked = model
    given = [(question.image, question.text, list(question.regions)) for question in asked], SUFFIXES
    if request.param == "5.23":
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            return ask_exported.answers_of(exported.folder, *given)
    folder = tmp_path_factory.mktemp("asked")
    (folder / "questions.pkl").write_bytes(pickle.dumps(given))
    files = folder / "questions.pkl", folder / "answers.pkl"
    run_with_transformers(request.param, ask_exported.__file__, exported.folder, *files)
    return pickle.loads((folder / "answers.pkl").read_bytes())


def test_every_key_is_used_and_none_is_missing(theirs):
    assert theirs["keys"] == {"missing": [], "unexpected": [], "mismatched": []}


def test_processor_makes_the_projects_arrays_bit_for_bit(theirs, ours):
    inputs, arrays = theirs["inputs"], ours["arrays"]
    for name in ("regions", "region_valid", "region_crop_coverage", "region_align_coverage"):
        np.testing.assert_array_equal(inputs[name], arrays[name], err_msg=name)
    for name, source in (("pixel_values", "image"), ("region_pixels", "region_pixels")):
        np.testing.assert_array_equal(inputs[name], np.moveaxis(normalised(arrays[source]), -1, -3), err_msg=name)


def test_sequence_is_image_regions_and_the_projects_text_padded_on_the_left(theirs, ours, model):
    exported, asked = model
    inputs, arrays = theirs["inputs"], ours["arrays"]
    image = exported.tokenizer.vocab_size
    for row, question in enumerate(asked):
        text = arrays["text"][row][arrays["mask_input"][row] == 1].tolist()
        expected = [image] * (16 + 8 * len(question.regions)) + text
        padding = inputs["input_ids"].shape[1] - len(expected)
        assert inputs["input_ids"][row].tolist() == [0] * padding + expected
        assert inputs["attention_mask"][row].tolist() == [0] * padding + [1] * len(expected)


def test_logits_after_the_prompt_are_the_projects(theirs, ours):
    last = ours["arrays"]["mask_input"].sum(axis=1) - 1
    assert_close(theirs["logits"], ours["logits"][np.arange(len(last)), last])


def test_logits_of_a_taught_answer_are_the_projects(theirs, ours):
    """The prompt sees itself whole, the answer is causal, and the labels are the answer and eos."""
    taught = ours["taught"]
    for row in range(len(SUFFIXES)):
        answer = np.flatnonzero(taught["mask_loss"][row])
        places = np.flatnonzero(theirs["labels"][row] != -100)
        np.testing.assert_array_equal(theirs["labels"][row][places], taught["text"][row][answer])
        np.testing.assert_array_equal(np.flatnonzero(theirs["token_type_ids"][row]), places)
        assert_close(theirs["taught_logits"][row][places - 1], ours["taught_logits"][row][answer - 1])


def test_generated_tokens_are_the_projects_in_a_batch_and_alone(theirs, ours):
    np.testing.assert_array_equal(theirs["tokens"], ours["tokens"])
    np.testing.assert_array_equal(theirs["alone"], ours["tokens"])


def test_answers_are_the_projects_text(theirs, ours, model):
    tokenizer = model[0].tokenizer
    assert theirs["answers"] == [tokenizer.decode(row.tolist()).strip() for row in ours["tokens"]]


def test_without_regions_it_is_plain_paligemma(theirs):
    assert theirs["none_names"] == ["attention_mask", "input_ids", "pixel_values", "token_type_ids"]
    assert_close(theirs["none_logits"], theirs["plain_logits"])
    assert_close(theirs["empty_logits"], theirs["plain_logits"])


def test_folder_saved_again_holds_the_same_model(theirs):
    assert theirs["again_keys"] == []
    assert_close(theirs["again_logits"], theirs["logits"])


@pytest.mark.parametrize(("encoders", "crop_size"), [(("crop",), 56), (("align",), 28)])
def test_single_encoders_and_crops_of_the_images_own_size(encoders, crop_size, tmp_path):
    config = tiny_config(encoders, crop_size=crop_size)
    exported, asked = export(config, tmp_path / "model"), questions()
    arrays = project_arrays(exported, asked, tmp_path)
    inputs = ask(AutoProcessor.from_pretrained(exported.folder, trust_remote_code=True), asked)
    model = load(exported.folder, "eager")
    with torch.no_grad():
        logits = model(**inputs).logits[:, -1].numpy()
    last = arrays["mask_input"].sum(axis=1) - 1
    ours = project_answers(exported, arrays)["logits"]
    assert_close(logits, ours[np.arange(len(last)), last])


def test_eager_and_fused_attention_agree(exported):
    folder, asked = exported("gemma1")[0].folder, exported("gemma1")[1]
    inputs = ask(AutoProcessor.from_pretrained(folder, trust_remote_code=True), asked)
    with torch.no_grad():
        eager, fused = (load(folder, kind)(**inputs).logits for kind in ("eager", "sdpa"))
    assert_close(fused[:, -1].numpy(), eager[:, -1].numpy())


def test_bfloat16_inputs_keep_their_boxes_in_float32(exported):
    folder, asked = exported("gemma1")[0].folder, exported("gemma1")[1]
    inputs = ask(AutoProcessor.from_pretrained(folder, trust_remote_code=True), asked)
    boxes = inputs["regions"].clone()
    cast = inputs.to("cpu", dtype=torch.bfloat16)
    assert cast["pixel_values"].dtype == cast["region_pixels"].dtype == torch.bfloat16
    assert torch.equal(cast["regions"], boxes)
    model = load(folder, "eager", dtype=torch.bfloat16)
    with torch.no_grad():
        half = model(**cast).logits[:, -1].float()
    whole = load(folder, "eager")(**ask(AutoProcessor.from_pretrained(folder, trust_remote_code=True), asked))
    assert_close(half.numpy(), whole.logits[:, -1].detach().numpy(), 0.1)


def test_image_tokens_that_do_not_fit_the_regions_are_an_error(exported):
    folder, asked = exported("gemma1")[0].folder, exported("gemma1")[1]
    inputs = ask(AutoProcessor.from_pretrained(folder, trust_remote_code=True), asked)
    inputs["region_valid"] = torch.zeros_like(inputs["region_valid"])
    with pytest.raises(ValueError, match=r"\[16, 24, 32\] <image> tokens, but image and regions have \[16, 16, 16\]"):
        load(folder, "eager")(**inputs)


def normalised(pixels):
    return pixels.astype(np.float32) / np.float32(127.5) - 1


def ask(processor, asked):
    images, texts, regions = ([example[part] for example in asked] for part in range(3))
    return processor(images=images, text=texts, regions=regions, return_tensors="pt")


def load(folder, attention, **extra):
    return AutoModelForImageTextToText.from_pretrained(
        folder, trust_remote_code=True, attn_implementation=attention, **extra
    )

"""Adapters out: merged into the weights, or beside the base for PEFT, with the same logits either way."""

import dataclasses
import json
import shutil
from typing import get_args

import numpy as np
import pytest
import transformers
from converted import (
    Ours,
    assert_close_on_real_tokens,
    assert_same_answers,
    random_inputs,
    read_params,
    run_convert,
    their_greedy,
    their_logits,
    write_checkpoint,
)
from peft import PeftModel
from PIL import Image
from test_convert import prompts_of
from tiny_models import random_transformers_model, save_transformers_folder
from transformers import AutoModelForImageTextToText, AutoProcessor, PaliGemmaForConditionalGeneration

from data_pipelines.records import Region
from data_pipelines.regions.boxes import box_from_pixels
from rllava_jax.config import LoraConfig, LoraTarget, RegionConfig
from rllava_jax.inference.predictor import Predictor
from rllava_jax.model.params import abstract

transformers.logging.set_verbosity_error()
EVERY = get_args(LoraTarget)


@pytest.fixture(scope="module", params=["gemma1", "gemma2"])
def base(request, tmp_path_factory):
    """A base model: transformers' folder, and the same imported."""
    folder = tmp_path_factory.mktemp("base")
    save_transformers_folder(random_transformers_model(request.param), folder / "theirs")
    run_convert("import", folder / "theirs", folder / "ours")
    return folder


def with_adapters(base, folder, targets, *, seed=0):
    """The base with random adapters, as a LoRA run leaves it: rank 3, alpha 8."""
    ours = Ours(base / "ours")
    lora = LoraConfig(rank=3, alpha=8.0, targets=targets)
    config = dataclasses.replace(ours.config, lora=lora)
    params, draw = read_params(base / "ours"), np.random.default_rng(seed)
    _, shapes = abstract(config, vocab=2112)
    for name, shape in shapes.items():
        if name not in params:
            fan_in = np.prod(shape.shape[1:-1]) if name.endswith("/a") else 3
            params[name] = (draw.normal(size=shape.shape) * 0.5 * fan_in**-0.5).astype(np.float32)
    write_checkpoint(folder, config, params, ours.tokenizer)
    return folder


@pytest.fixture(scope="module")
def adapted(base, tmp_path_factory):
    return with_adapters(base, tmp_path_factory.mktemp("adapted") / "run", EVERY)


def from_folder(folder):
    return PaliGemmaForConditionalGeneration.from_pretrained(folder, attn_implementation="eager")


def test_merged_adapters_give_the_adapted_models_logits_and_answers(base, adapted, tmp_path):
    inputs = random_inputs(seed=4)
    ours = Ours(adapted)
    logits = ours.logits(inputs)
    # The adapters matter: without them the logits are far away.
    assert np.abs(logits - Ours(base / "ours").logits(inputs)).max() > 0.1 * np.abs(logits).max()
    run_convert("export", adapted, tmp_path / "merged", "--merge-lora")
    model, report = PaliGemmaForConditionalGeneration.from_pretrained(
        tmp_path / "merged", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report.values()), report
    assert_close_on_real_tokens(logits, their_logits(model, inputs), inputs, 1e-5)
    prompts = prompts_of(inputs)
    assert_same_answers(ours.greedy(prompts, new_tokens=6), their_greedy(model, prompts, new_tokens=6))
    run_convert("import", tmp_path / "merged", tmp_path / "again")
    assert_close_on_real_tokens(Ours(tmp_path / "again").logits(inputs), logits, inputs, 1e-5)


def test_peft_loads_kept_adapters_with_the_same_logits(base, adapted, tmp_path):
    run_convert("export", adapted, tmp_path / "kept", "--keep-lora")
    inputs = random_inputs(seed=5)
    logits = Ours(adapted).logits(inputs)
    for folder in (tmp_path / "kept", base / "theirs"):  # the base that was written, and the one it came from
        model = PeftModel.from_pretrained(from_folder(folder), tmp_path / "kept" / "adapter")
        assert_close_on_real_tokens(logits, their_logits(model, inputs), inputs, 1e-5)


@pytest.mark.parametrize("target", ["o", "vision.o", "k", "up", "head"])
def test_peft_loads_a_single_kind_of_adapter(target, base, tmp_path):
    run = with_adapters(base, tmp_path / "run", (target,), seed=7)
    run_convert("export", run, tmp_path / "kept", "--keep-lora")
    inputs = random_inputs(seed=6)
    logits = Ours(run).logits(inputs)
    plain = their_logits(from_folder(base / "theirs"), inputs)
    model = PeftModel.from_pretrained(from_folder(tmp_path / "kept"), tmp_path / "kept" / "adapter")
    assert np.abs(logits - plain)[np.asarray(inputs.mask_input)][:, :2048].max() > 1e-3 * np.abs(plain).max()
    assert_close_on_real_tokens(logits, their_logits(model, inputs), inputs, 1e-5)


def test_peft_finds_every_adapter_it_was_given(adapted, tmp_path):
    run_convert("export", adapted, tmp_path / "kept", "--keep-lora")
    model = from_folder(tmp_path / "kept")
    report = PeftModel.from_pretrained(model, tmp_path / "kept" / "adapter").load_adapter(
        tmp_path / "kept" / "adapter", adapter_name="again"
    )
    assert not [key for key in report.missing_keys if "lora" in key]
    assert not report.unexpected_keys
    settings = json.loads((tmp_path / "kept" / "adapter" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (3, 8.0)


def test_kept_adapters_come_back_from_the_folder(adapted, tmp_path):
    run_convert("export", adapted, tmp_path / "kept", "--keep-lora")
    run_convert("import", tmp_path / "kept", tmp_path / "again")
    before, after = read_params(adapted), read_params(tmp_path / "again")
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)
    assert Ours(tmp_path / "again").config.lora == Ours(adapted).config.lora


def test_a_model_that_peft_merged_and_saved_comes_in(adapted, tmp_path):
    run_convert("export", adapted, tmp_path / "kept", "--keep-lora")
    model = PeftModel.from_pretrained(from_folder(tmp_path / "kept"), tmp_path / "kept" / "adapter").merge_and_unload()
    model.save_pretrained(tmp_path / "saved")
    for name in ("tokenizer.json", "tokenizer.model"):
        shutil.copy(tmp_path / "kept" / name, tmp_path / "saved")
    run_convert("import", tmp_path / "saved", tmp_path / "again")
    inputs = random_inputs(seed=8)
    assert_close_on_real_tokens(Ours(tmp_path / "again").logits(inputs), Ours(adapted).logits(inputs), inputs, 1e-5)


def test_a_merged_model_no_longer_asks_for_adapters(adapted, tmp_path):
    run_convert("export", adapted, tmp_path / "merged")
    run_convert("import", tmp_path / "merged", tmp_path / "again")
    assert Ours(tmp_path / "again").config.lora.rank == 0


def test_big_visions_npz_holds_the_merged_weights(adapted, tmp_path):
    run_convert("export", adapted, tmp_path / "merged.npz")
    run_convert("export", adapted, tmp_path / "merged")
    run_convert("import", tmp_path / "merged", tmp_path / "again")
    with np.load(tmp_path / "merged.npz") as arrays:
        for name, value in read_params(tmp_path / "again").items():
            rows = slice(None, 2048) if name.endswith("input_embedding") else slice(None)
            np.testing.assert_array_equal(value[rows], arrays[f"params/{name}"], err_msg=name)


def test_adapters_and_regions_together_answer_as_here(base, tmp_path):
    """Kept and merged, through the remote code; float32."""
    ours = Ours(base / "ours")
    regions = RegionConfig(encoders=("crop", "align"), crop_size=28, tokens=4)
    config = dataclasses.replace(ours.config, regions=regions, lora=LoraConfig(rank=3, alpha=8.0, targets=("q", "o")))
    params, draw = read_params(base / "ours"), np.random.default_rng(1)
    _, shapes = abstract(config, vocab=2112)
    params |= {
        name: draw.normal(size=shape.shape).astype(np.float32) * 0.2
        for name, shape in shapes.items()
        if name not in params
    }
    write_checkpoint(tmp_path / "run", config, params, ours.tokenizer)
    pixels = np.asarray(Image.fromarray(draw.integers(0, 255, (9, 7, 3), np.uint8)).resize((70, 90)))
    Image.fromarray(pixels).save(tmp_path / "scan.png")
    box = box_from_pixels(12, 20, 30, 25, width=70, height=90, where="box")
    predictor = Predictor.load(tmp_path / "run", new_tokens=8)
    expected = predictor.answer(str(tmp_path / "scan.png"), "what is it?", [Region(box)]).text
    without = predictor.answer(str(tmp_path / "scan.png"), "what is it?").text
    assert expected != without
    for flag in ("--keep-lora", "--merge-lora"):
        folder = tmp_path / flag.strip("-")
        run_convert("export", tmp_path / "run", folder, flag)
        model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
        if flag == "--keep-lora":
            model = PeftModel.from_pretrained(model, folder / "adapter")
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        for marks, answer in (([(12, 20, 30, 25)], expected), (None, without)):
            inputs = processor(images=Image.fromarray(pixels), text="what is it?", regions=marks, return_tensors="pt")
            generated = model.generate(**inputs, max_new_tokens=8, do_sample=False)
            assert processor.answers(generated, inputs) == [answer]

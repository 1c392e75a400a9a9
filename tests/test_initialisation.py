"""Starting from a checkpoint: what it decides, what is loaded and how, and what the run remembers."""

import json
import re
import shutil
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from expected_errors import refused
from PIL import Image
from scipy import ndimage
from starting_models import (
    CONVERSION,
    POSITIONS,
    TABLE,
    begin,
    random_params,
    small_model,
    small_tokenizer,
    starting_from,
    stored_arrays,
    with_adapters,
    write_model,
)

from rllava_jax import predict
from rllava_jax.checkpoint import provenance
from rllava_jax.checkpoint.errors import CheckpointError
from rllava_jax.config import ConfigError, InitConfig, LoraConfig, MeshConfig, RegionConfig
from rllava_jax.config.loading import load
from rllava_jax.model import sizes
from rllava_jax.model.params import abstract
from rllava_jax.model.preprocessing import make_preprocessor
from rllava_jax.model.sharding import make_mesh, parameter_shardings
from rllava_jax.training.initialisation import initialiser, origins, resampled, resolve
from rllava_jax.training.job import parameter_table
from rllava_jax.training.optimizer import learning_rate, make_optimizer
from rllava_jax.training.program import abstract_state


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def tiny(command_line):
    """The tiny run's configuration."""
    return load(command_line.config, [])


@pytest.fixture(scope="module")
def config_of_import(tiny, tokenizer):
    return small_model(tiny, tokenizer)


@pytest.fixture(scope="module")
def params_of_import(config_of_import):
    return random_params(config_of_import)


@pytest.fixture(scope="module")
def imported(tmp_path_factory, config_of_import, tokenizer, params_of_import):
    """An imported model of float32. Copy it before changing anything in it."""
    return write_model(tmp_path_factory.mktemp("imported") / "model", config_of_import, tokenizer, params_of_import)


def test_a_run_begins_with_the_very_parameters_of_a_finished_one(finished_run, tiny, tmp_path):
    for place, step in ((finished_run, 14), (finished_run / "checkpoints" / "12", 12)):
        params, found = begin(starting_from(tiny, place), tmp_path)
        expected = stored_arrays(finished_run / "checkpoints" / str(step) / "params")
        assert set(found.values()) == {"loaded"}
        assert params.keys() == expected.keys()
        for name, value in params.items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_a_model_without_training_state_is_a_starting_point(imported, config_of_import, params_of_import, tmp_path):
    params, found = begin(starting_from(config_of_import, imported), tmp_path)
    assert set(found.values()) == {"loaded"}
    for name, value in params.items():
        np.testing.assert_array_equal(value, params_of_import[name], err_msg=name)


def test_bfloat16_becomes_float32_and_frozen_parameters_become_bfloat16(config_of_import, tokenizer, tmp_path):
    halves = {name: value.astype(jnp.bfloat16) for name, value in random_params(config_of_import).items()}
    write_model(tmp_path / "model", config_of_import, tokenizer, halves)
    params, _ = begin(starting_from(config_of_import, tmp_path / "model"), tmp_path)
    for name, value in params.items():
        assert value.dtype == jnp.float32
        np.testing.assert_array_equal(value, halves[name].astype(np.float32), err_msg=name)


def test_frozen_parameters_of_a_float32_checkpoint_are_read_as_bfloat16(
    imported, config_of_import, params_of_import, tmp_path
):
    config = starting_from(config_of_import, imported, frozen_dtype="bfloat16", image_size=28)
    config = replace(config, optimizer=replace(config.optimizer, trainable=("img/head/.*",)))
    params, found = begin(config, tmp_path)
    assert found[POSITIONS] == "resampled"
    for name, value in params.items():
        assert value.dtype == (jnp.float32 if name.startswith("img/head/") else jnp.bfloat16), name
        if name != POSITIONS:
            np.testing.assert_array_equal(value, params_of_import[name].astype(value.dtype), err_msg=name)


def test_regions_and_adapters_are_made_fresh(imported, config_of_import, params_of_import, tmp_path):
    config = starting_from(config_of_import, imported, frozen_dtype="float32")
    config = replace(config, regions=RegionConfig(tokens=4, crop_size=28), lora=LoraConfig(rank=2, targets=("q", "o")))
    params, found = begin(config, tmp_path)
    new = {name for name, origin in found.items() if origin == "new"}
    assert new == {name for name in params if name.startswith("roi/") or "/lora" in name}
    assert len(new) == 4 + 4
    assert {found[name] for name in params.keys() - new} == {"loaded"}
    for name, value in params.items():
        if name not in new:
            np.testing.assert_array_equal(value, params_of_import[name], err_msg=name)
        else:  # at first they change nothing: one factor of each adapter is random, everything else is zero
            assert np.any(value) == name.endswith("/lora/a"), name


@pytest.mark.parametrize("side", [28, 98, 112])
def test_positions_are_resampled_as_the_reference_does(imported, config_of_import, params_of_import, tmp_path, side):
    params, found = begin(starting_from(config_of_import, imported, image_size=side), tmp_path)
    assert {name for name, origin in found.items() if origin == "resampled"} == {POSITIONS}
    square = params_of_import[POSITIONS].reshape(4, 4, -1)
    expected = ndimage.zoom(square, (side / 14 / 4, side / 14 / 4, 1), order=1)
    assert expected.shape[0] == side // 14
    np.testing.assert_allclose(params[POSITIONS][0], expected.reshape(-1, 32), atol=1e-6)


def test_positions_of_one_patch_are_that_patch():
    positions = jnp.arange(8.0).reshape(1, 4, 2)
    np.testing.assert_array_equal(resampled(positions, 1), positions[:, :1])


def test_only_what_is_new_is_made(config_of_import):
    """Beside a loaded model of billions of parameters there is no room for a random one."""
    model = replace(config_of_import.model, vocab=sizes.PALIGEMMA_VOCAB)
    config = replace(config_of_import, model=model, lora=LoraConfig(rank=2, targets=("q",)))
    _, shapes = abstract(config, vocab=0)
    new = {name: shape for name, shape in shapes.items() if "/lora" in name}
    shardings = parameter_shardings(make_mesh(MeshConfig(1, 8)), new)
    memory = initialiser(config, new, shardings, vocab=0).lower().compile().memory_analysis()
    assert len(new) == 2
    assert memory.output_size_in_bytes + memory.temp_size_in_bytes < 2**16 < shapes[TABLE].size


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, config_of_import, tokenizer):
    """A checkpoint with a region branch and adapters."""
    config = with_adapters(config_of_import)
    return config, write_model(tmp_path_factory.mktemp("adapted") / "model", config, tokenizer, random_params(config))


def test_more_adapters_may_join_those_of_the_checkpoint(adapted, tmp_path):
    config, folder = adapted
    wider = replace(config, lora=replace(config.lora, targets=("q", "o")))
    _, found = begin(starting_from(wider, folder), tmp_path)
    assert {name for name, origin in found.items() if origin == "new"} == {
        f"llm/layers/attn/attn_vec_einsum/lora/{factor}" for factor in "ab"
    }


def test_the_checkpoint_decides_size_and_rows(imported, finished_run, tiny, config_of_import, tmp_path):
    resolved, start = resolve(starting_from(config_of_import, imported), tmp_path)
    assert resolved.model == config_of_import.model
    assert start.shapes[TABLE].shape == (resolved.model.vocab, 64)
    resolved, _ = resolve(starting_from(config_of_import, imported, image_size=112), tmp_path)
    assert resolved.model == replace(config_of_import.model, image_size=112)
    resolved, start = resolve(starting_from(tiny, finished_run), tmp_path)
    assert resolved.model == replace(tiny.model, vocab=start.tokenizer.vocab_size)
    resolved, _ = resolve(starting_from(tiny, finished_run, size="tiny", image_size=112), tmp_path)
    assert (resolved.model.size, resolved.model.image_size) == ("tiny", 112)


def test_the_step_is_named_in_one_place(finished_run, tiny, tmp_path):
    config = starting_from(tiny, finished_run)
    for step, expected in (("last", 14), ("best", 14), ("12", 12)):
        assert resolve(replace(config, init=InitConfig(str(finished_run), step)), tmp_path)[1].step == expected
    twice = InitConfig(str(finished_run / "checkpoints" / "14"), "12")
    with refused(ConfigError, "config.conflict", "init.step: '12'", "init.checkpoint=", "14"):
        resolve(replace(config, init=twice), tmp_path)
    with refused(CheckpointError, "checkpoint.missing", "init.checkpoint: ", "'13'"):
        resolve(replace(config, init=InitConfig(str(finished_run), "13")), tmp_path)
    with refused(CheckpointError, "checkpoint.missing", "init.checkpoint: ", "nowhere"):
        resolve(replace(config, init=InitConfig(str(tmp_path / "nowhere"))), tmp_path)


def test_a_run_that_has_checkpoints_needs_its_starting_point_no_more(
    imported, config_of_import, finished_run, tmp_path
):
    workdir, folder = tmp_path / "run", tmp_path / "model"
    shutil.copytree(imported, folder)
    config = starting_from(config_of_import, folder)
    resolved, start = resolve(config, workdir)
    provenance.write_workdir(workdir, resolved, start.tokenizer, start.record)
    assert provenance.started_from(workdir) == start.record
    # Stopped before its first checkpoint: it still has to begin, at the very step that it recorded.
    write_again = folder / "checkpoints" / "5"
    shutil.copytree(folder / "checkpoints" / "0", write_again)
    assert resolve(config, tmp_path)[1].step == 5
    again, start = resolve(config, workdir)
    assert (again, start.step) == (resolved, 0)
    shutil.rmtree(folder)
    with refused(CheckpointError, "checkpoint.missing", "init.checkpoint: ", str(folder)):
        resolve(config, workdir)
    shutil.copytree(finished_run / "checkpoints" / "14", workdir / "checkpoints" / "14")
    assert resolve(config, workdir) == (resolved, None)
    assert provenance.check_workdir(workdir, resolved)
    with refused(CheckpointError, "checkpoint.missing", "other"):  # it is not what the run recorded
        resolve(replace(config, init=InitConfig(str(tmp_path / "other"))), workdir)


def test_what_a_model_was_made_of_travels_with_its_descendants(imported, config_of_import, tmp_path):
    _, start = resolve(starting_from(config_of_import, imported), tmp_path)
    assert start.record.conversion == CONVERSION
    assert start.record.facts == {"name": "model", "step": 0, "conversion": json.loads(CONVERSION)}
    files = provenance.assets(config_of_import, make_preprocessor(config_of_import, start.tokenizer), start.record)
    assert files["conversion.json"] == CONVERSION
    child = provenance.start_of(files, name="child", step=3, where="child")
    trained = provenance.training_facts(config_of_import)
    assert child.facts == {"name": "child", "step": 3, "trained": trained, "started_from": start.record.facts}
    assert json.loads(json.dumps(child.facts)) == child.facts
    assert child.conversion == CONVERSION


def test_the_tables_counts_add_up(adapted, tmp_path):
    config, folder = adapted
    config = starting_from(config, folder, image_size=112, frozen_dtype="bfloat16")
    config = replace(config, lora=replace(config.lora, targets=("q", "o")))
    config, start = resolve(config, tmp_path)
    _, shapes = abstract(config, vocab=0)
    trained = {name: shape for name, shape in shapes.items() if shape.dtype == jnp.float32}
    optimizer = make_optimizer(config.optimizer, learning_rate(config.optimizer, steps=2, warmup=0), trained)
    table = parameter_table(abstract_state(config, shapes, optimizer, trained), origins(config, shapes, start))
    head, *rows, total = table.splitlines()
    assert head.split() == ["part", "kind", "origin", "parameters", "MiB", "dtype"]
    cells = [row.split() for row in rows]
    assert [tuple(row[:3]) for row in cells] == [
        ("img", "frozen", "loaded"),
        ("img", "frozen", "resampled"),
        ("llm", "frozen", "loaded"),
        ("roi", "trains", "loaded"),
        ("adapters", "trains", "loaded"),
        ("adapters", "trains", "new"),
    ]
    counts = [int(row[3].replace(",", "")) for row in cells]
    whole = sum(shape.size for shape in shapes.values())
    assert sum(counts) == whole == int(total.split()[1].replace(",", ""))
    train = sum(count for count, row in zip(counts, cells, strict=True) if row[1] == "trains")
    assert f"of which {train:,} train ({train / whole:.2%})" in total
    for count, row in zip(counts, cells, strict=True):
        size = {"bfloat16": 2, "float32": 4}[row[5]]
        assert (row[5] == "float32") == (row[1] == "trains")
        assert float(row[4]) == pytest.approx(count * size / 2**20, abs=0.051)
    assert len({len(line.rsplit("  ", 1)[0]) for line in [head, *rows]}) == 1  # aligned


def test_an_imported_model_answers_questions(imported, tmp_path, capsys):
    image = tmp_path / "slice.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(image)
    arguments = ["--checkpoint", str(imported), "--image", str(image), "--question", "is there a spleen?"]
    assert predict.main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["confidence"] > 0


def test_a_run_from_an_imported_model_goes_on_after_that_is_gone(command_line, imported, tmp_path):
    """As a user starts it: from a model of another resolution, with regions it never had; then killed and resumed."""
    workdir, folder = tmp_path / "run", tmp_path / "model"
    shutil.copytree(imported, folder)
    command = command_line.main(
        workdir,
        f"--config.init.checkpoint={folder}",
        "--config.model.size=checkpoint",
        "--config.model.image_size=28",
        "--config.data.text_length=56",
        "--config.train.duration=3 steps",
        "--config.train.checkpoint_every=1 steps",
        "--config.train.evaluate_every=never",
        "--config.evaluation.families=vqa",
        "--config.evaluation.conditions=none",
        "--config.evaluation.max_examples=2",
    )
    status, _, err = command_line.run(command)
    assert status == 0, err
    for part, origin in (("img", "loaded"), ("img", "resampled"), ("llm", "loaded"), ("roi", "new")):
        assert re.search(rf"^ +{part} +trains +{origin} ", err, re.MULTILINE)
    described = json.loads((workdir / "config.json").read_text())
    assert described["config"]["model"]["size"] == "custom"
    assert described["config"]["model"]["image_size"] == 28
    assert described["started_from"]["name"] == "model"
    assert described["started_from"]["conversion"] == json.loads(CONVERSION)
    last = workdir / "checkpoints" / "3"
    assets = json.loads((last / "assets" / "config.json").read_text())
    assert (assets["config"], assets["started_from"]) == (described["config"], described["started_from"])
    assert (last / "assets" / "conversion.json").read_bytes() == CONVERSION

    shutil.rmtree(folder)
    expected = stored_arrays(last / "params")
    shutil.rmtree(last)
    status, _, err = command_line.run(command)
    assert status == 0, err
    assert "resuming after step 2 of 3" in err
    assert re.search(r"^ +roi +trains +resumed ", err, re.MULTILINE)
    resumed = stored_arrays(last / "params")
    assert resumed.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
    assert (last / "assets" / "conversion.json").read_bytes() == CONVERSION
    assert json.loads((last / "assets" / "config.json").read_text())["started_from"] == described["started_from"]

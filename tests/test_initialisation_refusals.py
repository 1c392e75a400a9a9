"""Starting from a checkpoint: what does not fit, or is damaged, is named before anything is written."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from expected_errors import refused
from flipped_bits import made_old
from starting_models import (
    POSITIONS,
    TABLE,
    begin,
    random_params,
    small_model,
    small_tokenizer,
    starting_from,
    with_adapters,
    write_model,
)

from data_pipelines.core.errors import UserError
from rllava_jax import main as entry
from rllava_jax.checkpoint.errors import CheckpointError
from rllava_jax.config import ConfigError, LoraConfig, RegionConfig
from rllava_jax.config.loading import load
from rllava_jax.model.preprocessing import make_preprocessor
from rllava_jax.training.initialisation import resolve


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


DAMAGE = {
    "missing": (lambda params: params.pop("llm/final_norm/scale"), ["1 missing (llm/final_norm/scale)", "import"]),
    "unexpected": (
        lambda params: params.update({f"img/more/{n}": np.zeros(2, np.float32) for n in "abcd"}),
        ["4 unexpected (img/more/a, img/more/b, img/more/c and 1 more)"],
    ),
    "ill-shaped": (
        lambda params: params.update({"img/head/bias": np.zeros(3, np.float32)}),
        ["1 ill-shaped (img/head/bias (3,), here (64,))"],
    ),
    "positions": (
        lambda params: params.update({POSITIONS: np.zeros((1, 15, 32), np.float32)}),
        [f"1 ill-shaped ({POSITIONS} (1, 15, 32), here (1, 16, 32))"],
    ),
    "no table": (lambda params: params.pop(TABLE), []),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_names_and_shapes_that_do_not_fit_are_listed(config_of_import, tokenizer, params_of_import, tmp_path, damage):
    change, said = DAMAGE[damage]
    params = dict(params_of_import)
    change(params)
    write_model(tmp_path / "model", config_of_import, tokenizer, params)
    where = str(tmp_path / "model" / "checkpoints" / "0")
    with refused(CheckpointError, "checkpoint.mismatch", "init.checkpoint: ", where, *said):
        begin(starting_from(config_of_import, tmp_path / "model"), tmp_path)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, config_of_import, tokenizer):
    """A checkpoint with a region branch and adapters."""
    config = with_adapters(config_of_import)
    return config, write_model(tmp_path_factory.mktemp("adapted") / "model", config, tokenizer, random_params(config))


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"lora": LoraConfig()}, "checkpoint.mismatch", ["2 unexpected", "lora.rank=2, lora.targets=q,", "exporting"]),
        (
            {"lora": LoraConfig(rank=4, alpha=8, targets=("q",))},
            "checkpoint.mismatch",
            ["2 ill-shaped", "q_einsum/lora/a (2, 64, 2), here (2, 64, 4)", "lora.rank=2"],
        ),
        ({"lora": LoraConfig(rank=2, alpha=16, targets=("q",))}, "config.conflict", ["lora.alpha: 16", "8"]),
        (
            {"regions": RegionConfig(encoders=("loc",))},
            "checkpoint.mismatch",
            ["4 unexpected (roi/", "regions.encoders=crop"],
        ),
        (
            {"regions": RegionConfig(tokens=1, crop_size=28)},
            "checkpoint.mismatch",
            ["1 ill-shaped (roi/token_embedding", "regions.tokens=4"],
        ),
        (
            {"regions": RegionConfig(encoders=("align",), tokens=4)},
            "config.conflict",
            ["regions.encoders: ('align',)", "('crop',)"],
        ),
    ],
    ids=["no adapters", "rank", "alpha", "no regions", "region tokens", "region encoder"],
)
def test_regions_and_adapters_of_other_settings_are_refused(adapted, tmp_path, changes, code, said):
    config, folder = adapted
    with refused(UserError, code, *said):
        begin(starting_from(replace(config, **changes), folder), tmp_path)


@pytest.mark.parametrize(
    ("model", "code", "said"),
    [
        ({"size": "tiny"}, "config.conflict", ["model.size: 'tiny'", "'custom'", "vision.width 128, there 32"]),
        ({"vocab": 7}, "config.conflict", ["model.vocab: 7"]),
        ({"image_size": 60}, "config.invalid-value", ["model.image_size: 60"]),
    ],
    ids=["size", "vocab", "image size"],
)
def test_a_size_that_is_not_the_checkpoints_is_refused(imported, config_of_import, tmp_path, model, code, said):
    with refused(ConfigError, code, *said):
        resolve(starting_from(config_of_import, imported, **model), tmp_path)


@pytest.fixture
def refused_by_main(command_line, tmp_path, capsys):
    """Runs main in this process from that checkpoint and returns its error; nothing may have been written."""

    def run(folder):
        workdir = tmp_path / "refused"
        command = command_line.main(workdir, f"--config.init.checkpoint={folder}", "--config.model.size=checkpoint")
        assert entry.main(command[command.index("rllava_jax.main") + 1 :]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ")
        assert not workdir.exists()
        return error

    return run


@pytest.mark.parametrize("rows", [-1, 128])
def test_a_tokenizer_of_another_table_is_refused(refused_by_main, config_of_import, tokenizer, tmp_path, rows):
    rows += tokenizer.vocab_size
    config = replace(config_of_import, model=replace(config_of_import.model, vocab=rows))
    with refused(ConfigError, "config.conflict", "tokenizer.model", f"{tokenizer.vocab_size:,}", f"{rows:,}"):
        make_preprocessor(config, tokenizer)
    params = random_params(config)
    folder = write_model(tmp_path / "model", config_of_import, tokenizer, params)
    error = refused_by_main(folder)
    assert f"{folder}/checkpoints/0/assets/tokenizer.model: has {tokenizer.vocab_size:,} ids" in error
    assert f"{rows:,} rows" in error


@pytest.mark.parametrize(
    ("file", "content", "said"),  # the sums would name what is changed, whatever it is, before its content is looked at
    [
        ("tokenizer.json", b"{}", "assets/tokenizer.model and tokenizer.json: only one of them belongs there"),
        ("tokenizer.model", None, "assets/tokenizer.model: missing"),
        ("tokenizer.model", b"text", "assets/tokenizer.model: "),
        ("config.json", b"{", "assets/config.json: not valid JSON"),
        ("config.json", None, "assets/config.json: missing"),
        ("conversion.json", b"[]", "assets/conversion.json: it is []"),
    ],
    ids=["two tokenizers", "no tokenizer", "a bad tokenizer", "a bad config", "no config", "a bad conversion"],
)
def test_a_starting_points_bad_file_is_named(refused_by_main, imported, tmp_path, file, content, said):
    folder = tmp_path / "model"
    shutil.copytree(imported, folder)
    made_old(folder / "checkpoints" / "0")
    path = folder / "checkpoints" / "0" / "assets" / file
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)
    assert said in refused_by_main(folder)

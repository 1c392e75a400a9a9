"""One flipped bit in any file of a checkpoint or an imported model: it is found, or decides nothing."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from expected_errors import assert_refused, refused
from flipped_bits import files_of, flip
from starting_models import random_params, small_model, small_tokenizer

import rllava_jax
from rllava_jax import calibrate, convert, evaluate, predict
from rllava_jax.checkpoint import provenance
from rllava_jax.checkpoint.errors import CheckpointError
from rllava_jax.checkpoint.integrity import checksums
from rllava_jax.checkpoint.manager import Checkpoints
from rllava_jax.checkpoint.opened import OpenedCheckpoint
from rllava_jax.config import Config, InitConfig
from rllava_jax.interop.import_checkpoint import write_model
from rllava_jax.interop.stored_params import StoredCheckpoint
from rllava_jax.interop.streaming import StreamedArray
from rllava_jax.model.preprocessing import make_preprocessor
from rllava_jax.training.initialisation import resolve

# Orbax leaves the other arrays' reads unawaited when one of them fails.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def streamed(value):
    """In two blocks, the last one shorter."""
    value = np.asarray(value)
    rows = len(value) // 2 + 1
    return StreamedArray(
        value.shape, value.dtype, rows, lambda: (value[i : i + rows] for i in range(0, len(value), rows))
    )


@pytest.fixture(scope="module")
def params():
    return {}


@pytest.fixture(scope="module")
def model(tmp_path_factory, params):
    """The folder of an imported model."""
    folder = tmp_path_factory.mktemp("imported")
    tokenizer = small_tokenizer(folder)
    config = small_model(Config(), tokenizer)
    params |= {
        name: value.astype(jnp.bfloat16) if name.startswith("img/") else value
        for name, value in random_params(config).items()
    }
    files = provenance.assets(config, make_preprocessor(config, tokenizer)) | {"conversion.json": b'{"source": "x"}'}
    write_model(folder / "model" / "checkpoints", {name: streamed(value) for name, value in params.items()}, files)
    return folder / "model"


def targets(shapes, dtype=None):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return {n: jax.ShapeDtypeStruct(s.shape, dtype or s.dtype, sharding=device) for n, s in shapes.items()}


def read_whole(model):
    """What the readers of a checkpoint see of it: assets and numbers, as `load` and as `convert export` read them."""
    opened = StoredCheckpoint.open(model)
    with Checkpoints(opened.folder, read_only=True) as checkpoints:
        params = checkpoints.restore_params(opened.step, targets(opened.shapes))
    return opened.config, dict(opened.files), params, {name: array.whole() for name, array in opened.arrays.items()}


def assert_same_reading(one, other):
    assert one[:2] == other[:2]
    for arrays in (one[2], one[3]):
        assert arrays.keys() == other[2].keys()
        for name, value in arrays.items():
            assert value.dtype == other[2][name].dtype
            np.testing.assert_array_equal(np.asarray(value), np.asarray(other[2][name]))


def test_an_imported_model_has_the_sums_that_its_devices_would_compute(model, params):
    stored = json.loads((model / "checkpoints" / "0" / "checksums" / "checksums.json").read_text())
    assert stored == checksums({"params": {name: jnp.asarray(value) for name, value in params.items()}})


@pytest.mark.slow
def test_a_flipped_bit_in_any_file_is_found_or_changes_nothing_that_is_read(model):
    before, found = read_whole(model), {}
    for name in files_of(model):
        content = (model / name).read_bytes()
        flip(model / name, at=0.3)
        try:
            assert_same_reading(read_whole(model), before)
        except CheckpointError as error:
            found[name] = str(error)
        finally:
            (model / name).write_bytes(content)
    assert all(str(model / "checkpoints") in line and "\n" not in line for line in found.values())
    decisive = {name for name in files_of(model / "checkpoints" / "0" / "assets") if name != "commit_success.txt"}
    assert {f"checkpoints/0/assets/{name}" for name in decisive} <= found.keys()
    assert "checkpoints/0/checksums/checksums.json" in found
    largest = max((model / "checkpoints" / "0" / "params").rglob("*"), key=lambda path: path.stat().st_size)
    assert largest.relative_to(model).as_posix() in found


@pytest.mark.slow
def test_numbers_that_are_read_into_another_type_are_verified_before(model, params):
    opened = OpenedCheckpoint.open(model)
    with Checkpoints(opened.folder, read_only=True) as checkpoints:
        read = checkpoints.restore_params(0, targets(opened.shapes, jnp.bfloat16))
        for name, value in params.items():
            assert read[name].dtype == jnp.bfloat16
            np.testing.assert_array_equal(np.asarray(read[name]), np.asarray(jnp.asarray(value).astype(jnp.bfloat16)))
        path = opened.where / "checksums" / "checksums.json"
        sums = json.loads(path.read_text())
        name = next(name for name in sums if "llm/" in name)  # stored in float32
        before = path.read_text()
        path.write_text(json.dumps(sums | {name: sums[name] ^ 1}))
        with refused(CheckpointError, "checkpoint.damaged", str(opened.where), "checksum"):
            checkpoints.restore_params(0, targets(opened.shapes, jnp.bfloat16))
        path.write_text(before)


def answering(model):
    rllava_jax.load(model)


def starting(model):
    resolve(replace(Config(), init=InitConfig(str(model))), model.parent / "new")


@pytest.mark.parametrize(
    "command",
    [
        lambda model: predict.main(["--image", __file__, "--question", "where?", "--checkpoint", str(model)]),
        lambda model: evaluate.main(["--checkpoint", str(model), "--out", str(model.parent / "out")]),
        lambda model: calibrate.main(["--checkpoint", str(model)]),
        lambda model: convert.main(["export", str(model), str(model.parent / "out")]),
        answering,
        starting,
    ],
    ids=["predict", "evaluate", "calibrate", "convert", "load", "init.checkpoint"],
)
def test_every_command_names_the_asset_that_is_damaged(model, capsys, command):
    for path in sorted((model / "checkpoints" / "0" / "assets").iterdir()):
        if path.name in ("commit_success.txt", "SHA256SUMS"):
            continue
        content = path.read_bytes()
        flip(path)
        try:
            if command in (answering, starting):
                with refused(CheckpointError, "checkpoint.damaged", f"assets/{path.name}"):
                    command(model)
            else:
                assert command(model) == 2
                assert_refused(capsys.readouterr().err, "checkpoint.damaged", f"assets/{path.name}")
        finally:
            path.write_bytes(content)

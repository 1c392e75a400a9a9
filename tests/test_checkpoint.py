"""Checkpoints: what is kept, what comes back, and what a damaged or half-written one does."""

import json
import shutil

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calibrations import CALIBRATION
from expected_errors import refused
from jax.sharding import NamedSharding, PartitionSpec

from data_pipelines.core.errors import DataError
from data_pipelines.loading.loader import TrainingIterator
from rllava_jax.checkpoint.errors import CheckpointError
from rllava_jax.checkpoint.integrity import checksums
from rllava_jax.checkpoint.manager import Checkpoints, find_checkpoint
from rllava_jax.config import DataConfig, MeshConfig
from rllava_jax.inference.calibration import calibration_of, write_calibration
from rllava_jax.model.sharding import make_mesh

# Orbax leaves the other arrays' reads unawaited when one of them fails.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

# Large enough to be stored in files of their own, which can be damaged.
SHAPE = (64, 128)
ASSETS = {"config.json": b'{"seed": 7}', "tokenizer.model": bytes(range(256))}


def numbers():
    """A data iterator: 0, 1, 2, …"""
    return iter(grain.MapDataset.range(1000).to_iter_dataset())


def arrays(step, mesh, *, cut=1):
    """Parameters and training state that differ from step to step; fsdp cuts axis `cut`."""
    rng = np.random.default_rng(step)
    sharding = NamedSharding(mesh, PartitionSpec(*(None,) * cut, "fsdp"))
    params = {
        "llm/mlp/linear": jax.device_put(rng.normal(size=SHAPE).astype(np.float32), sharding),
        "llm/frozen": jnp.asarray(rng.normal(size=(4,)), jnp.bfloat16),
    }
    moments = ({"llm/mlp/linear": jax.device_put(rng.normal(size=SHAPE).astype(np.float32), sharding)}, None)
    return params, {"step": jnp.asarray(step, jnp.int32), "optimizer": moments}


def abstract(tree, sharding=None):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), tree)


def saved(folder, steps, figures=None, *, assets=ASSETS, **options):
    """A folder with checkpoints of the given steps; at step s the data iterator has given s numbers."""
    mesh, data = make_mesh(MeshConfig(1, 8)), numbers()
    with Checkpoints(folder, **{"keep_last": 10, "best_metric": "all/right/accuracy", **options}) as checkpoints:
        for step in steps:
            while next(data) < step - 1:
                pass
            figure = (figures or {}).get(step)
            checkpoints.save(step, *arrays(step, mesh), data, assets)
            if figure is not None:
                checkpoints.add_figures(step, {"all/right/accuracy": figure, "other": -figure})
            checkpoints.wait()
        return checkpoints.steps()


def assert_same(restored, expected):
    assert jax.tree.structure(restored) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(restored), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_the_newest_and_the_best_are_kept(tmp_path):
    kept = saved(tmp_path / "c", range(1, 7), {2: 0.9, 4: 0.5, 5: 0.8}, keep_last=2)
    assert kept == [2, 5, 6]
    with Checkpoints(tmp_path / "c", best_metric="all/right/accuracy", read_only=True) as checkpoints:
        assert checkpoints.resolve("best") == 2
        assert checkpoints.resolve("last") == 6
        assert checkpoints.resolve("5") == 5
        restored = checkpoints.restore_params(2, abstract(arrays(2, make_mesh(MeshConfig()))[0]))
    assert_same(restored, arrays(2, make_mesh(MeshConfig()))[0])


def test_a_calibration_among_the_assets_leaves_a_checkpoint_whole_and_goes_with_it(tmp_path):
    folder, mesh = tmp_path / "c", make_mesh(MeshConfig())
    saved(folder, [1, 2], keep_last=1)
    write_calibration(folder / "2", CALIBRATION)
    params, training = (abstract(tree) for tree in arrays(2, mesh))
    with Checkpoints(folder, keep_last=1) as checkpoints:
        assert_same(checkpoints.restore(2, params, training, numbers())[0], arrays(2, mesh)[0])
        assert calibration_of(checkpoints.assets(2), checkpoint=folder / "2") == CALIBRATION
        checkpoints.save(3, *arrays(3, mesh), numbers(), ASSETS)
        checkpoints.wait()
        assert checkpoints.steps() == [3]
        assert calibration_of(checkpoints.assets(3), checkpoint=folder / "3") is None
    assert not (folder / "2").exists()


def test_a_folder_opened_to_be_read_knows_its_own_best(tmp_path):
    described = {"config": {"train": {"best_metric": "all/right/accuracy"}}}
    assets = {**ASSETS, "config.json": json.dumps(described).encode()}
    saved(tmp_path / "c", range(1, 6), {2: 0.9, 3: 0.9, 4: 0.5}, assets=assets)
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        assert checkpoints.resolve("best") == 3


def test_shapes_are_known_without_reading_an_array(tmp_path):
    folder = tmp_path / "c"
    saved(folder, [1, 2])
    params = arrays(1, make_mesh(MeshConfig()))[0]
    truncate_largest(folder / "1" / "params")
    shutil.rmtree(folder / "2" / "params")
    with Checkpoints(folder, read_only=True) as checkpoints:
        shapes = checkpoints.shapes(1)
        assert {name: (s.shape, s.dtype) for name, s in shapes.items()} == {
            name: (value.shape, value.dtype) for name, value in params.items()
        }
        with refused(CheckpointError, "checkpoint.damaged", f"{folder / '2'}: "):
            checkpoints.shapes(2)


def test_a_checkpoint_of_parameters_and_assets_alone_is_one(tmp_path):
    folder = tmp_path / "model" / "checkpoints"
    saved(folder, [4])
    for item in ("training", "data"):
        shutil.rmtree(folder / "4" / item)
    params = arrays(4, make_mesh(MeshConfig()))[0]
    for path, which in ((folder.parent, "last"), (folder, "last"), (folder / "4", "4")):
        assert find_checkpoint(path) == (folder, which)
    with Checkpoints(folder, read_only=True) as checkpoints:
        assert_same(checkpoints.restore_params(4, abstract(params)), params)
        assert checkpoints.assets(4) == ASSETS
    for path in (tmp_path, folder / "4" / "params", tmp_path / "none"):
        with refused(CheckpointError, "checkpoint.missing", f"{path}: "):
            find_checkpoint(path)


def test_without_validation_only_the_newest_are_kept(tmp_path):
    assert saved(tmp_path / "c", range(1, 6), keep_last=2) == [4, 5]


def test_everything_comes_back_on_another_mesh(tmp_path):
    saved(tmp_path / "c", [1, 2])
    mesh = make_mesh(MeshConfig(4, 2))
    params, training = arrays(2, mesh, cut=0)
    data = numbers()
    with Checkpoints(tmp_path / "c") as checkpoints:
        restored = checkpoints.restore(2, abstract(params), abstract(training), data)
        assets = checkpoints.assets(2)
    assert_same(restored, (params, training))
    linear = restored[0]["llm/mlp/linear"]
    assert linear.sharding == NamedSharding(mesh, PartitionSpec("fsdp"))
    assert {shard.data.shape for shard in linear.addressable_shards} == {(32, 128)}
    assert next(data) == 2
    assert assets.items() == ASSETS.items()


def test_a_save_is_of_the_moment_it_was_asked_for(tmp_path):
    """The next step reuses the arrays' memory while the save is still being written."""
    mesh, data = make_mesh(MeshConfig(1, 8)), numbers()
    params, training = arrays(1, mesh)
    expected = jax.tree.map(lambda x: np.array(x, copy=True), params)
    overwrite = jax.jit(lambda tree: jax.tree.map(jnp.zeros_like, tree), donate_argnums=0)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, params, training, data, ASSETS)
        overwrite(params)
        next(data)
        checkpoints.wait()
        shapes = abstract(arrays(1, mesh))
        position = numbers()
        restored, _ = checkpoints.restore(1, *shapes, position)
    assert_same(restored, expected)
    assert next(position) == 0


def test_files_are_stored_as_they_are(tmp_path):
    saved(tmp_path / "c", [3])
    for name, content in ASSETS.items():
        assert (tmp_path / "c" / "3" / "assets" / name).read_bytes() == content


def truncate_largest(folder):
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


@pytest.mark.parametrize("item", ["params", "training"])
@pytest.mark.parametrize("damage", [truncate_largest, shutil.rmtree], ids=["truncated", "missing"])
def test_a_damaged_checkpoint_is_named_with_the_one_to_go_on_from(tmp_path, item, damage):
    folder = tmp_path / "c"
    saved(folder, [1, 2, 3])
    damage(folder / "3" / item)
    untouched = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    params, training = arrays(2, make_mesh(MeshConfig()))
    with Checkpoints(folder, keep_last=10) as checkpoints:
        with pytest.raises(CheckpointError) as caught:
            checkpoints.restore(3, abstract(params), abstract(training), numbers())
        message = str(caught.value)
        assert message.startswith(f"{folder / '3'}: the checkpoint cannot be read")
        assert message.endswith("move that folder away to go on from step 2")
        assert "\n" not in message
        assert_same(checkpoints.restore(2, abstract(params), abstract(training), numbers()), (params, training))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == untouched


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    saved(tmp_path / "c", [1])
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        params = abstract(arrays(1, make_mesh(MeshConfig()))[0])
        sharding = params["llm/frozen"].sharding
        for other in (
            {**params, "llm/more": jax.ShapeDtypeStruct((2,), jnp.float32, sharding=sharding)},
            {"llm/frozen": params["llm/frozen"]},
            {**params, "llm/frozen": jax.ShapeDtypeStruct((5,), jnp.bfloat16, sharding=sharding)},
        ):
            with refused(CheckpointError, "checkpoint.damaged", str(tmp_path / "c" / "1")):
                checkpoints.restore_params(1, other)


def test_what_a_kill_left_half_written_is_no_checkpoint(tmp_path):
    folder = tmp_path / "c"
    saved(folder, [1, 2])
    half = folder / "3.orbax-checkpoint-tmp"
    shutil.copytree(folder / "2", half)
    truncate_largest(half / "params")
    mesh = make_mesh(MeshConfig(1, 8))
    with Checkpoints(folder, read_only=True) as checkpoints:
        assert checkpoints.steps() == [1, 2]
    with Checkpoints(folder, keep_last=10) as checkpoints:
        assert checkpoints.resolve("last") == 2
        checkpoints.save(3, *arrays(3, mesh), numbers(), ASSETS)
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2, 3]
        params = arrays(3, mesh)[0]
        assert_same(checkpoints.restore_params(3, abstract(params)), params)


def test_reading_changes_nothing(tmp_path):
    folder = tmp_path / "c"
    saved(folder, [1, 2, 3])
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with Checkpoints(folder, keep_last=1, read_only=True) as checkpoints:
        checkpoints.assets(3)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_folder_that_is_missing_or_empty_says_to_train_first(tmp_path):
    with refused(CheckpointError, "checkpoint.missing", str(tmp_path / "none")):
        Checkpoints(tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty").mkdir()
    with (
        Checkpoints(tmp_path / "empty", read_only=True) as checkpoints,
        refused(CheckpointError, "checkpoint.missing", str(tmp_path / "empty")),
    ):
        checkpoints.resolve("last")


def test_a_step_that_is_not_there_lists_those_that_are(tmp_path):
    saved(tmp_path / "c", [1, 2])
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        for which in ("3", "first", "-1"):
            with refused(CheckpointError, "checkpoint.missing", repr(which), "[1, 2]"):
                checkpoints.resolve(which)
        with refused(CheckpointError, "checkpoint.not-validated", "train.evaluate_every"):
            checkpoints.resolve("best")


def flip_a_bit(folder):
    """In the middle of the largest file, where the numbers are: zstd keeps those of random bits as they are."""
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


@pytest.mark.parametrize("item", ["params", "training"])
def test_a_flipped_bit_is_found(tmp_path, item):
    folder = tmp_path / "c"
    saved(folder, [1, 2])
    flip_a_bit(folder / "2" / item)
    params, training = arrays(2, make_mesh(MeshConfig()))
    with (
        Checkpoints(folder, keep_last=10) as checkpoints,
        refused(CheckpointError, "checkpoint.damaged", "c/2: ", "checksum"),
    ):
        checkpoints.restore(2, abstract(params), abstract(training), numbers())


def test_a_flipped_bit_in_parameters_is_found_by_those_who_only_answer(tmp_path):
    folder = tmp_path / "c"
    saved(folder, [1])
    flip_a_bit(folder / "1" / "params")
    with Checkpoints(folder, read_only=True) as checkpoints, refused(CheckpointError, "checkpoint.damaged"):
        checkpoints.restore_params(1, abstract(arrays(1, make_mesh(MeshConfig()))[0]))


@pytest.mark.parametrize("damage", [truncate_largest, shutil.rmtree, flip_a_bit], ids=["truncated", "missing", "bit"])
@pytest.mark.slow
def test_damaged_newest_checkpoints_are_set_aside_and_the_one_before_is_used(tmp_path, caplog, damage):
    folder = tmp_path / "c"
    saved(folder, [1, 2, 3, 4])
    for step in (3, 4):
        damage(folder / str(step) / "params")
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    mesh = make_mesh(MeshConfig())
    params, training = arrays(2, mesh)
    data = numbers()
    caplog.clear()
    with Checkpoints(folder, keep_last=10) as checkpoints:
        step, *restored = checkpoints.restore_newest(abstract(params), abstract(training), data)
        assert step == 2
        assert_same(tuple(restored), (params, training))
        assert next(data) == 2
        warned = [record.getMessage() for record in caplog.records if record.name == "rllava_jax.checkpoint.manager"]
        for line, damaged in zip(warned, (4, 3), strict=True):
            assert line.startswith(f"{folder / str(damaged)}: the checkpoint cannot be read (")
            assert line.endswith(f"; renamed to {damaged}.damaged, going on from step 2")
            assert "\n" not in line
        assert checkpoints.steps() == [1, 2]
        # Nothing is deleted, and the steps can be saved anew.
        for path, content in before.items():
            first, *rest = path.parts
            name = f"{first}.damaged" if first in ("3", "4") else first
            assert folder.joinpath(name, *rest).read_bytes() == content
        checkpoints.save(3, *arrays(3, mesh), numbers(), ASSETS)
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2, 3]


class Batches:
    """What a checkpoint needs of a data iterator: a position as `loading.loader.TrainingIterator` has it."""

    def __init__(self, seed=0):
        self._iterator = TrainingIterator(grain.MapDataset.range(9), DataConfig(), {"seed": seed})
        self.get_state, self.set_state = self._iterator.get_state, self._iterator.set_state

    def at(self, batch):
        self.set_state({**self.get_state(), "next_batch": batch})
        return self


def saved_at_batches(folder, steps):
    with Checkpoints(folder, keep_last=10) as checkpoints:
        for step in steps:
            checkpoints.save(step, *arrays(step, make_mesh(MeshConfig(1, 8))), Batches().at(step), ASSETS)
            checkpoints.wait()


@pytest.mark.parametrize(
    ("position", "said"),
    [
        ({}, "the saved data position has no next_batch, seed"),
        ({"seed": 0}, "the saved data position has no next_batch"),
        ({"next_batch": 7, "seed": 0}, "its data position is batch 7, step 4 goes on with batch 4"),
        ({"next_batch": None, "seed": 0}, "its data position is batch None"),
        ([], "cannot be read"),
    ],
)
def test_a_damaged_data_position_is_damage_like_any_other(tmp_path, caplog, position, said):
    folder, data = tmp_path / "c", Batches()
    saved_at_batches(folder, [2, 4])
    (folder / "4" / "data" / "position.json").write_text(json.dumps(position))
    shapes = [abstract(tree) for tree in arrays(2, make_mesh(MeshConfig()))]
    with Checkpoints(folder, keep_last=10) as checkpoints:
        assert checkpoints.restore_newest(*shapes, data)[0] == 2
    assert data.get_state()["next_batch"] == 2
    assert said in caplog.text
    assert (folder / "4.damaged").is_dir()


@pytest.mark.parametrize("item", ["assets", "checksums"])
def test_what_was_written_and_is_gone_is_damage(tmp_path, item):
    folder = tmp_path / "c"
    saved(folder, [1, 2])
    shutil.rmtree(folder / "2" / item)
    params, training = (abstract(tree) for tree in arrays(1, make_mesh(MeshConfig())))
    with (
        Checkpoints(folder, read_only=True) as checkpoints,
        refused(CheckpointError, "checkpoint.damaged", "c/2: ", f"folder {item}"),
    ):
        checkpoints.restore_params(2, params)
    with Checkpoints(folder, keep_last=10) as checkpoints:
        assert checkpoints.restore_newest(params, training, numbers())[0] == 1
    assert (folder / "2.damaged").is_dir()


def test_a_data_position_of_other_data_is_no_damage(tmp_path):
    folder = tmp_path / "c"
    saved_at_batches(folder, [2, 4])
    shapes = [abstract(tree) for tree in arrays(2, make_mesh(MeshConfig()))]
    with Checkpoints(folder) as checkpoints, pytest.raises(DataError, match="has seed = 0, this run has 1"):
        checkpoints.restore_newest(*shapes, Batches(seed=1))
    assert not (folder / "4.damaged").exists()


def test_where_no_checkpoint_can_be_read_all_are_left(tmp_path):
    folder = tmp_path / "c"
    saved(folder, [1, 2])
    for step in (1, 2):
        shutil.rmtree(folder / str(step) / "params")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    params, training = arrays(2, make_mesh(MeshConfig()))
    with (
        Checkpoints(folder, keep_last=10) as checkpoints,
        refused(CheckpointError, "checkpoint.damaged", "c/2: ", "folder params"),
    ):
        checkpoints.restore_newest(abstract(params), abstract(training), numbers())
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_figures_that_come_after_the_save_choose_the_best(tmp_path):
    folder, mesh = tmp_path / "c", make_mesh(MeshConfig(1, 8))
    with Checkpoints(folder, keep_last=1, best_metric="all/right/accuracy") as checkpoints:
        for step, figure in ((1, 0.5), (2, 0.9), (3, 0.7), (4, 0.1), (5, None)):
            checkpoints.save(step, *arrays(step, mesh), numbers(), ASSETS)
            if figure is not None:
                checkpoints.add_figures(step, {"all/right/accuracy": figure})
            checkpoints.wait()
            assert checkpoints.has_figures(step) == (figure is not None)
        assert checkpoints.resolve("best") == 2
        assert checkpoints.steps() == [2, 5]
    with Checkpoints(folder, read_only=True, best_metric="all/right/accuracy") as checkpoints:
        assert checkpoints.resolve("best") == 2


@pytest.mark.parametrize("content", ["", '{"all/right/accuracy": 0.'])
def test_damaged_figures_cost_their_checkpoint_nothing_but_its_figures(tmp_path, caplog, content):
    folder, mesh = tmp_path / "c", make_mesh(MeshConfig(1, 8))
    with Checkpoints(folder, keep_last=2, best_metric="all/right/accuracy") as checkpoints:
        for step, figure in ((1, 0.9), (2, 0.5)):
            checkpoints.save(step, *arrays(step, mesh), numbers(), ASSETS)
            checkpoints.add_figures(step, {"all/right/accuracy": figure})
    (folder / "1" / "metrics" / "metrics").write_text(content)
    with Checkpoints(folder, keep_last=2, best_metric="all/right/accuracy") as checkpoints:
        assert checkpoints.steps() == [1, 2]
        assert not checkpoints.has_figures(1)
        assert checkpoints.resolve("best") == 2
    assert f"{folder}/1/metrics/metrics: damaged" in caplog.text
    assert (folder / "1" / "metrics" / "metrics.damaged").read_text() == content


def test_checksums_do_not_depend_on_the_mesh_and_see_every_bit():
    values = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    sums = set()
    for sizes, spec in (((8, 1), ()), ((1, 8), ("fsdp",)), ((2, 4), (None, ("data", "fsdp")))):
        mesh = make_mesh(MeshConfig(*sizes))
        sums.add(checksums({"x": jax.device_put(values, NamedSharding(mesh, PartitionSpec(*spec)))})["['x']"])
    assert len(sums) == 1
    bits = values.view(np.uint32)
    for place, bit in ((0, 0), (17, 31), (SHAPE[0] * SHAPE[1] - 1, 12)):
        other = bits.copy()
        other.flat[place] ^= np.uint32(1 << bit)
        assert checksums({"x": jnp.asarray(other.view(np.float32))})["['x']"] not in sums
    swapped = values[::-1]
    assert checksums({"x": jnp.asarray(swapped)})["['x']"] not in sums

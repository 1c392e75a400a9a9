"""Arrays written and read block by block are ordinary Orbax checkpoints, whatever cut them into chunks."""

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rllava_jax.checkpoint import manager as checkpoint
from rllava_jax.checkpoint.manager import Checkpoints
from rllava_jax.config import MeshConfig
from rllava_jax.interop import streaming
from rllava_jax.interop.import_checkpoint import write_model
from rllava_jax.interop.streaming import StreamedArray, rows_per_block, stored_array, streaming_handler
from rllava_jax.model.sharding import make_mesh

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def random(shape, dtype, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def in_blocks(value, rows):
    return StreamedArray(
        value.shape,
        value.dtype,
        rows,
        lambda: iter(value[start : start + rows] for start in range(0, len(value), rows)),
    )


ARRAYS = {
    "llm/layers/mlp/linear": random((5, 16, 8), BFLOAT16),
    "llm/embedder/input_embedding": random((100, 8), np.float32),
    "img/head/bias": random((8,), np.float16),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "checkpoints"
    rows = {"llm/layers/mlp/linear": 2, "llm/embedder/input_embedding": 33, "img/head/bias": 8}
    write_model(folder, {name: in_blocks(value, rows[name]) for name, value in ARRAYS.items()}, {"config.json": b"{}"})
    return folder


def test_orbax_restores_streamed_arrays_straight_to_shards(written):
    mesh = make_mesh(MeshConfig(1, 8))
    target = {
        name: jax.ShapeDtypeStruct(
            value.shape,
            value.dtype,
            sharding=NamedSharding(mesh, PartitionSpec(*(None,) * (value.ndim - 1), "fsdp")),
        )
        for name, value in ARRAYS.items()
    }
    with Checkpoints(written, read_only=True) as checkpoints:
        restored = checkpoints.restore_params(0, target)
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(np.asarray(restored[name]), value)
        assert {shard.data.shape for shard in restored[name].addressable_shards} == {(*value.shape[:-1], 1)}


def test_streamed_arrays_are_read_back_in_blocks(written):
    for name in ARRAYS:
        array = stored_array(written / "0" / "params", name)
        np.testing.assert_array_equal(np.concatenate(list(array.blocks())), ARRAYS[name])
        assert (array.shape, array.dtype) == (ARRAYS[name].shape, ARRAYS[name].dtype)


def test_a_training_checkpoint_cut_over_devices_is_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_CHUNK_BYTES", 500)
    monkeypatch.setattr(streaming, "_BLOCK_BYTES", 600)
    mesh = make_mesh(MeshConfig(2, 4))
    values = {name: value for name, value in ARRAYS.items() if value.ndim > 1}
    placed = {
        name: jax.device_put(value, NamedSharding(mesh, PartitionSpec(*(None,) * (value.ndim - 1), "fsdp")))
        for name, value in values.items()
    }
    manager = ocp.CheckpointManager(tmp_path / "run")
    save = ocp.args.StandardSave(placed, save_args=checkpoint._save_args(placed))
    manager.save(3, args=ocp.args.Composite(params=save))
    manager.close()
    for name, value in values.items():
        stream = stored_array(tmp_path / "run" / "3" / "params", name)
        blocks = list(stream.blocks())
        assert len(blocks) > 1
        assert max(block.nbytes for block in blocks) <= 600
        np.testing.assert_array_equal(np.concatenate(blocks), value)


def test_the_layers_of_a_large_stack_are_stored_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_CHUNK_BYTES", 1000)
    params = {name: jax.numpy.asarray(value) for name, value in ARRAYS.items()}
    manager = ocp.CheckpointManager(tmp_path / "run")
    manager.save(
        0, args=ocp.args.Composite(params=ocp.args.StandardSave(params, save_args=checkpoint._save_args(params)))
    )
    manager.wait_until_finished()
    stored = manager.item_metadata(0)["params"].tree
    chunks = {name: leaf.storage.chunk_shape for name, leaf in stored.items()}
    manager.close()
    assert chunks["llm/layers/mlp/linear"] == (1, 16, 8)
    assert 1 < chunks["llm/embedder/input_embedding"][0] < 100  # and the table is not stored row by row
    assert chunks["img/head/bias"] == (8,)


def test_a_block_has_a_row_at_least_and_128_mib_at_most():
    assert rows_per_block((18, 2, 2048, 16384), 2) == 1
    assert rows_per_block((257_216, 2048), 2) == 2**15
    assert rows_per_block((7,), 4) == 7
    assert rows_per_block((46, 2, 4608, 36864), 4) == 1


def test_a_stream_that_ends_early_is_an_error_and_no_checkpoint(tmp_path):
    short = StreamedArray((4, 2), np.dtype(np.float32), 2, lambda: iter([np.zeros((2, 2), np.float32)]))
    manager = ocp.CheckpointManager(
        tmp_path / "run",
        options=ocp.CheckpointManagerOptions(enable_async_checkpointing=False),
        item_handlers={"params": streaming_handler()},
    )
    with pytest.raises(ValueError, match="2 rows were produced of 4"):
        manager.save(0, args=ocp.args.Composite(params=ocp.args.PyTreeSave({"short": short})))
    assert manager.all_steps() == []

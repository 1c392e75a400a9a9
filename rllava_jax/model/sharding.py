"""The mesh, and where parameters and batches live on it. `partition_rules.py` has the rules."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from data_pipelines.core.errors import MeshMismatch
from rllava_jax.config import Config, MeshConfig
from rllava_jax.model.partition_rules import BATCH, MESH_AXES, held_whole, parameter_spec

logger = logging.getLogger(__name__)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over all devices of all hosts, or over `devices` (of a topology that is not at hand, say).

    Neighbours on `tensor`, then on `fsdp`, are neighbours in the machine; slices are furthest apart.

    Raises:
      ConfigError: the axes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    # GPUs have slice numbers as well, one per host; there `slices` is the user's choice alone.
    tpu = devices[0].platform == "tpu"
    counted = len({getattr(device, "slice_index", 0) for device in devices}) if tpu else 1
    sizes = {"slice": config.slices or counted, "data": config.data, "fsdp": config.fsdp, "tensor": config.tensor}
    known = math.prod(size for size in sizes.values() if size != -1)
    if list(sizes.values()).count(-1) == 1 and len(devices) % known == 0:
        sizes = {name: len(devices) // known if size == -1 else size for name, size in sizes.items()}
    if math.prod(sizes.values()) != len(devices) or (counted > 1 and sizes["slice"] != counted):
        remedy = "the others must divide that" if -1 in sizes.values() else "set one of the last three to -1"
        if counted > 1 and sizes["slice"] != counted:
            remedy = "set slices to 0, which counts them"
        raise MeshMismatch(
            f"mesh: slices={sizes['slice']}, data={config.data}, fsdp={config.fsdp} and tensor={config.tensor} do not "
            f"make {len(devices)} devices{f' in {counted} slices' if counted > 1 else ''}; {remedy}"
        )
    shape = tuple(sizes.values())
    if counted > 1:
        within, between = (1, *shape[1:]), (counted, 1, 1, 1)
        grid = mesh_utils.create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=True)
    elif tpu:
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
        grid = np.array(sorted(devices, key=lambda device: (device.process_index, device.id))).reshape(shape)
    # A host feeds whole examples, so the devices that share an example must be its own.
    if any(len({device.process_index for device in row}) > 1 for row in grid.reshape(-1, sizes["tensor"])):
        raise MeshMismatch(
            f"mesh.tensor: {sizes['tensor']} devices that share an example would lie on several hosts here; "
            "choose a smaller number"
        )
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(shape))


def batch_shards(mesh: Mesh) -> int:
    """Parts that a batch is sharded into."""
    return math.prod(mesh.shape[axis] for axis in BATCH)


def check_batches(config: Config, mesh: Mesh) -> None:
    """Raises ConfigError for a micro-batch, or a batch of evaluation, that the mesh cannot share evenly."""
    parts = batch_shards(mesh)
    for field, size in (
        ("train.batch_size", config.train.batch_size // config.train.accumulate),
        ("evaluation.batch_size", config.evaluation.batch_size),
    ):
        if size % parts:
            raise MeshMismatch(
                f"{field}: {size} examples at a time cannot be shared by {parts} parts (slices x data x fsdp); "
                "make it a multiple"
            )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Examples are sharded over every axis but `tensor`."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def parameter_shardings(mesh: Mesh, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, NamedSharding]:
    """The sharding of every named parameter.

    Raises:
      ConfigError: a parameter that no rule names, or an axis that the mesh does not divide.
    """
    sizes = dict(mesh.shape)
    return {name: NamedSharding(mesh, parameter_spec(name, shape.shape, sizes)) for name, shape in shapes.items()}


def say_what_is_held_whole(mesh: Mesh, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> None:
    """Logs the parameters that `tensor` would shard if it could: replicating them is meant, and takes memory."""
    tensor = mesh.shape["tensor"]
    if whole := [f"{name} {shape.shape}" for name, shape in shapes.items() if held_whole(name, shape.shape, tensor)]:
        logger.info("mesh.tensor=%d: key-value heads are held whole on each of them: %s", tensor, ", ".join(whole))


def sharded_shapes(mesh: Mesh, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.ShapeDtypeStruct]:
    """The named parameters' shapes with their shardings: what a restore reads each array to. Raises ConfigError."""
    return placed(dict(shapes), parameter_shardings(mesh, shapes))


def placed(shapes: Any, shardings: Any) -> Any:
    """A pytree of shapes, each with its sharding; both of one structure."""
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding), shapes, shardings
    )


def to_devices(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
    """This host's share of a batch, as arrays of the global batch laid over the mesh."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}

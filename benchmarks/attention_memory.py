"""What a fused attention saves: memory and compile time of both towers' forward and backward pass, ahead of time.

    pip install libtpu                                             # no TPU is needed
    python benchmarks/attention_memory.py --topology v5e:2x2       # some minutes

Compiles PaliGemma with LoRA on every projection of both towers (bfloat16 weights, text of 64 tokens, 16 region tokens
from a crop) for a TPU topology, and prints what XLA says of the temporary memory of a device: activations kept for the
backward pass and working space. Weights are whole on each device, examples are cut over the devices. The vocabulary's
logits are left out: what they take depends on the loss's chunks, not on attention.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from typing import Any, cast

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ["JAX_PLATFORMS"] = "cpu"  # the compiler is libtpu's all the same

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rllava_jax.config import AttentionKind, Config, LoraConfig, ModelConfig, RegionConfig, Remat
from rllava_jax.model.inputs import Inputs
from rllava_jax.model.lora import TARGETS
from rllava_jax.model.paligemma import positions_of, prefix_lm_mask
from rllava_jax.model.params import abstract, merge
from rllava_jax.model.sizes import model_size

TEXT = 64


def compile_towers(mesh: Mesh, size: str, kind: AttentionKind, remat: Remat, per_device: int) -> Any:
    """The compiled program of a scalar's gradients with respect to all adapters."""
    config = Config(
        model=ModelConfig(size=size, compute_dtype="bfloat16", attention=kind, remat=remat),
        lora=LoraConfig(rank=12, targets=tuple(TARGETS)),
        regions=RegionConfig(crop_size=112),
    )
    graphdef, shapes = abstract(config, vocab=0)
    batch = per_device * mesh.size

    def over(spec: PartitionSpec, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    def examples(shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return over(PartitionSpec("data"), (batch, *shape), dtype)

    params = {name: over(PartitionSpec(), shape.shape, shape.dtype) for name, shape in shapes.items()}
    adapters = {name: params.pop(name) for name in list(params) if "/lora" in name}
    side, crop = model_size(config.model).vision.image_size, config.regions.crop_size
    inputs = Inputs(
        image=examples((side, side, 3)),
        text=examples((TEXT,), jnp.int32),
        mask_ar=examples((TEXT,), jnp.int32),
        mask_input=examples((TEXT,), jnp.bool_),
        regions=examples((1, 4)),
        region_valid=examples((1,), jnp.bool_),
        region_arrays={
            "region_pixels": examples((1, crop, crop, 3)),
            "region_crop_coverage": examples((1, crop // 14, crop // 14)),
        },
    )

    def scalar(adapters: Any, frozen: Any, inputs: Inputs) -> Any:
        model = merge(graphdef, adapters | frozen)
        sequence = model.embed(inputs)
        mask = prefix_lm_mask(sequence.mask_ar, sequence.valid)
        states = model.llm(sequence.x, positions_of(sequence.valid), mask).states
        return jnp.square(states[:, -TEXT:].astype(jnp.float32)).mean()

    with jax.set_mesh(mesh):
        return jax.jit(jax.grad(scalar)).lower(adapters, params, inputs).compile()


def main() -> None:
    """Prints one line for each size, policy and kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--sizes", nargs="+", default=["paligemma-3b-224", "paligemma-3b-448", "paligemma-3b-896"])
    parser.add_argument("--kinds", nargs="+", default=["xla", "pallas"])
    parser.add_argument("--remat", nargs="+", default=["none", "attention", "full"])
    parser.add_argument("--per-device", type=int, default=1, help="examples")
    args = parser.parse_args()

    devices = topologies.get_topology_desc(platform="tpu", topology_name=args.topology).devices
    mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
    print("| size | remat | attention | temporary MiB per device | compiled in s |\n|---|---|---|---|---|")
    for size in args.sizes:
        for remat in args.remat:
            for kind in args.kinds:
                began = time.monotonic()
                try:
                    compiled = compile_towers(
                        mesh, size, cast(AttentionKind, kind), cast(Remat, remat), args.per_device
                    )
                    needs = f"{compiled.memory_analysis().temp_size_in_bytes / 2**20:,.0f}"
                except jax.errors.JaxRuntimeError as error:
                    found = re.search(r"temporaries \((\S+)\) exceeds available HBM \((\S+)\)", str(error))
                    if found is None:
                        raise
                    needs = f"does not fit: {found[1]}iB of {found[2]}iB"
                print(f"| {size} | {remat} | {kind} | {needs} | {time.monotonic() - began:.0f} |", flush=True)


if __name__ == "__main__":
    main()

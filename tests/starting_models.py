"""Small imported models that a run starts from, and what it begins with."""

from dataclasses import replace

import jax
import numpy as np
import orbax.checkpoint as ocp

from data_pipelines.text.tokenizer import train_tokenizer
from rllava_jax.checkpoint import provenance
from rllava_jax.checkpoint.orbax_files import Assets, AssetsHandler
from rllava_jax.config import InitConfig, LoraConfig, MeshConfig, ModelConfig, RegionConfig
from rllava_jax.model import sizes
from rllava_jax.model.params import abstract
from rllava_jax.model.preprocessing import make_preprocessor
from rllava_jax.model.sharding import make_mesh, parameter_shardings
from rllava_jax.training.initialisation import initial_parameters, origins, resolve

# Every width a multiple of 8, so that `fsdp` can cut it over all the devices of the tests.
SMALL = sizes.PaliGemmaConfig(
    sizes.SiglipConfig(width=32, depth=2, mlp=64, heads=4, image_size=56),
    sizes.GemmaConfig(width=64, depth=2, mlp=128, heads=4, kv_heads=1, head_dim=16, query_scale=0.25),
)
PADDING = 5  # rows of the imported table that are no token
CONVERSION = b'{"base": "a published model", "licence": "its licence"}\n'
TABLE, POSITIONS = "llm/embedder/input_embedding", "img/pos_embedding"


def small_tokenizer(folder):
    text = ["answer en is there a spleen? yes", "detect liver", "no"] * 9
    return train_tokenizer(text, folder / "tokenizer.model", vocab_size=400)


def small_model(config, tokenizer):
    """A small model of no named size, without regions, whose table has more rows than the tokenizer has ids."""
    rows = tokenizer.vocab_size + PADDING
    model = ModelConfig(size="custom", dimensions=sizes.dimensions_of(SMALL), vocab=rows)
    return replace(config, model=model, regions=RegionConfig(encoders=()))


def with_adapters(config):
    """The model with a region branch and adapters."""
    lora = LoraConfig(rank=2, alpha=8, targets=("q",))
    return replace(config, regions=RegionConfig(tokens=4, crop_size=28), lora=lora)


def random_params(config, *, seed=0):
    """Numbers for every parameter, made on the host."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=s.shape).astype(s.dtype) / 8 for name, s in abstract(config, vocab=0)[1].items()}


def write_model(folder, config, tokenizer, params, **files):
    """A folder as an importer leaves it: parameters and assets, no training state and no data position."""
    assets = provenance.assets(config, make_preprocessor(config, tokenizer)) | {"conversion.json": CONVERSION} | files
    handlers = {"params": ocp.StandardCheckpointHandler(), "assets": AssetsHandler()}
    with ocp.CheckpointManager(folder / "checkpoints", item_handlers=handlers) as manager:
        items = {"params": ocp.args.StandardSave(params), "assets": Assets(assets)}
        manager.save(0, args=ocp.args.Composite(**items))
    return folder


def starting_from(config, folder, **model):
    """The configuration of a run that starts there, of the checkpoint's size."""
    model = replace(config.model, **{"size": "checkpoint", "dimensions": {}, "vocab": 0, "image_size": 0, **model})
    return replace(config, init=InitConfig(str(folder)), model=model)


def begin(config, workdir):
    """What a run on eight devices, which each hold an eighth, begins with; and where each parameter comes from."""
    config, start = resolve(config, workdir)
    _, shapes = abstract(config, vocab=0)
    shardings = parameter_shardings(make_mesh(MeshConfig(1, 8)), shapes)
    found = origins(config, shapes, start)
    params = initial_parameters(config, shapes, shardings, start, vocab=0)
    assert params.keys() == shapes.keys() == found.keys()
    for name, value in params.items():
        assert (value.shape, value.dtype) == (shapes[name].shape, shapes[name].dtype), name
        assert value.sharding == shardings[name], name
        # A true share, and not a view of the whole.
        share = shardings[name].shard_shape(value.shape)
        assert {shard.data.shape for shard in value.addressable_shards} == {share}, name
    assert params["llm/layers/mlp/linear"].size == 8 * params["llm/layers/mlp/linear"].addressable_shards[0].data.size
    return params, found


def stored_arrays(folder):
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(folder).item_metadata.tree
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return checkpointer.restore(folder, restore_args=arguments)

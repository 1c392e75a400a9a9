"""Auxiliary heads: modules beside PaliGemma that a loss trains, with parameters named `heads/NAME/…`.

The file that defines one says how its parameters are sharded (`partition_rules.register_rules`) and, if a Hugging Face
folder can hold them, how they are spelled (`published_names.register_spellings`); without that, export refuses them.
Answering needs none of them, so a process that knows no head reads a checkpoint without its heads, and a run whose
losses have no such head starts from one without them.
"""

from collections.abc import Callable, Iterable

from flax import nnx

from rllava_jax.model.sizes import PaliGemmaConfig

Head = Callable[[PaliGemmaConfig, nnx.Rngs], nnx.Module]

HEADS: dict[str, Head] = {}


class Heads(nnx.Module):
    """Each head under its name: `model.heads.NAME`."""


def make_heads(names: Iterable[str], config: PaliGemmaConfig, rngs: nnx.Rngs) -> Heads | None:
    """Those of the named losses that have a head; None where none has, so that such a model is as it always was."""
    heads = Heads()
    known = [name for name in names if name in HEADS]
    for name in known:
        setattr(heads, name, HEADS[name](config, rngs))
    return heads if known else None

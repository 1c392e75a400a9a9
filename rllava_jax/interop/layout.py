"""How each of our arrays is spelled in Hugging Face's PaliGemma, and nothing else: a table, read in both directions.

Axes, as in the model files: L layers (our leading axis, their `{layer}`), V vocabulary, D width, N heads, K kv heads,
H head dim, F mlp, W vision width, P patches, r rank. A pattern is einops': ours on
the left, theirs on the right; read from right to left it imports.

Sources: the module trees of transformers 4.57 and 5.23; big_vision's parameter names are ours.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rllava_jax.config import LoraTarget
from rllava_jax.interop.errors import UnsupportedExport
from rllava_jax.model.lora import TARGETS
from rllava_jax.model.published_names import REGISTERED, Spelling
from rllava_jax.model.sizes import PaliGemmaConfig

EMBEDDING = "llm/embedder/input_embedding"

_BLOCK = "img/Transformer/encoderblock/"
_THEIR_BLOCK = "vision_tower.encoder.layers.{layer}."
_THEIR_LAYER = "language_model.layers.{layer}."


def _vision() -> list[Spelling]:
    attention, their_attention = _BLOCK + "MultiHeadDotProductAttention_0/", _THEIR_BLOCK + "self_attn."
    rows: list[tuple[str, str, str, str, str]] = [  # ours, theirs, our name of their weight, its pattern, the bias's
        ("img/embedding/", "vision_tower.embeddings.patch_embedding.", "kernel", "y x c W -> W c y x", "W -> W"),
        ("img/pos_embedding", "vision_tower.embeddings.position_embedding.", "", "1 P W -> P W", ""),
        ("img/Transformer/encoder_norm/", "vision_tower.post_layernorm.", "scale", "W -> W", "W -> W"),
        ("img/head/", "multi_modal_projector.linear.", "kernel", "W D -> D W", "D -> D"),
    ]
    for number in (0, 1):
        norm, dense = f"{_BLOCK}LayerNorm_{number}/", f"{_BLOCK}MlpBlock_0/Dense_{number}/"
        rows += [
            (norm, f"{_THEIR_BLOCK}layer_norm{number + 1}.", "scale", "W -> W", "W -> W"),
            (dense, f"{_THEIR_BLOCK}mlp.fc{number + 1}.", "kernel", "W F -> F W", "F -> F"),
        ]
    for name in ("query", "key", "value"):
        theirs = f"{their_attention}{name[0]}_proj."
        rows.append((f"{attention}{name}/", theirs, "kernel", "W N H -> (N H) W", "N H -> (N H)"))
    rows.append((f"{attention}out/", f"{their_attention}out_proj.", "kernel", "N H W -> W (N H)", "W -> W"))
    table = []
    for ours, theirs, name, pattern, bias in rows:
        table.append(Spelling(ours + name, theirs + "weight", pattern))
        if bias:
            table.append(Spelling(ours + "bias", theirs + "bias", bias))
    return table


def _decoder(*, post_norms: bool) -> list[Spelling]:
    # What Gemma 1 calls `post_attention_layernorm` is the norm before the feed-forward; in Gemma 2 it is the one after
    # the attention branch.
    norms = {"pre_attention_norm": "input_layernorm", "pre_ffw_norm": "post_attention_layernorm"}
    if post_norms:
        norms = {
            "pre_attention_norm": "input_layernorm",
            "post_attention_norm": "post_attention_layernorm",
            "pre_ffw_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        }
    attention, mlp = _THEIR_LAYER + "self_attn.", _THEIR_LAYER + "mlp."
    return [
        Spelling(EMBEDDING, "language_model.embed_tokens.weight", "V D -> V D"),
        Spelling("llm/final_norm/scale", "language_model.norm.weight", "D -> D"),
        *(
            Spelling(f"llm/layers/{ours}/scale", f"{_THEIR_LAYER}{theirs}.weight", "D -> D")
            for ours, theirs in norms.items()
        ),
        Spelling("llm/layers/attn/q_einsum/w", attention + "q_proj.weight", "N D H -> (N H) D"),
        Spelling("llm/layers/attn/kv_einsum/w", attention + "k_proj.weight", "K D H -> (K H) D", 0),
        Spelling("llm/layers/attn/kv_einsum/w", attention + "v_proj.weight", "K D H -> (K H) D", 1),
        # A plain reshape of [N, H, D] would be right only where D = N · H.
        Spelling("llm/layers/attn/attn_vec_einsum/w", attention + "o_proj.weight", "N H D -> D (N H)"),
        Spelling("llm/layers/mlp/gating_einsum", mlp + "gate_proj.weight", "D F -> F D", 0),
        Spelling("llm/layers/mlp/gating_einsum", mlp + "up_proj.weight", "D F -> F D", 1),
        Spelling("llm/layers/mlp/linear", mlp + "down_proj.weight", "F D -> D F"),
    ]


def projection(table: Iterable[Spelling], target: LoraTarget) -> Spelling:
    """The row of the projection beside which a target's adapter stands."""
    site = TARGETS[target]
    return next(row for row in table if (row.ours, row.index) == (site.base, site.index))


def _adapters(table: Sequence[Spelling]) -> Iterator[Spelling]:
    """The adapters' pairs, spelled after their projections; theirs are torch's [out, in], so both are transposed."""
    for target, site in TARGETS.items():
        theirs = projection(table, target).theirs.removesuffix(".weight")
        a, b = site.equation.split("->")[0].split(",")  # "Dr,rNH->NDH": A [D, r] and B [r, N, H]
        inputs, outputs = " ".join(a[:-1]), " ".join(b[1:])
        yield Spelling(f"{site.adapter}/a", f"{theirs}.lora_A.weight", f"{inputs} r -> r {_merged(inputs)}")
        yield Spelling(f"{site.adapter}/b", f"{theirs}.lora_B.weight", f"r {outputs} -> {_merged(outputs)} r")


def _merged(axes: str) -> str:
    return f"({axes})" if " " in axes else axes


def model_table(size: PaliGemmaConfig) -> list[Spelling]:
    """The rows of PaliGemma itself, without adapters and extensions."""
    return [*_vision(), *_decoder(post_norms=size.decoder.post_norms)]


def spellings(size: PaliGemmaConfig, names: Sequence[str] | Mapping[str, object]) -> list[Spelling]:
    """The spellings of the named arrays of a model of this size, in the order of the table.

    Raises:
      CheckpointError: a name that nothing declares: the model has grown and its published names have not.
    """
    table = model_table(size)
    table += _adapters(table)
    table += [row for rows in REGISTERED.values() for row in rows]
    unknown = sorted(set(names) - {spelling.ours for spelling in table})
    if unknown:
        raise UnsupportedExport(
            f"{', '.join(unknown)}: parameters without a published name, so no Hugging Face folder can hold them; "
            "declare one (rllava_jax/model/published_names.py)"
        )
    return [spelling for spelling in table if spelling.ours in names]


def by_array(table: Iterable[Spelling]) -> dict[str, list[Spelling]]:
    """The spellings of each of our arrays."""
    parts: dict[str, list[Spelling]] = defaultdict(list)
    for spelling in table:
        parts[spelling.ours].append(spelling)
    return parts


_LAYOUT = (("language_model.", "language_model.model."), ("vision_tower.", "vision_tower.vision_model."))


def is_buffer(key: str) -> bool:
    """Whether a tensor is no parameter but a constant that some versions have saved."""
    return key.endswith((".position_ids", ".rotary_emb.inv_freq"))


def canonical(key: str) -> str:
    """The one name of a tensor that goes by four, according to who saved it.

    `language_model.model.layers…` (4.4x, and the published folders), `model.language_model.layers…` (5.x in memory),
    with `vision_tower.vision_model.…` or `vision_tower.…`: all become `language_model.layers…`, `vision_tower.…`.
    An adapter's names are a model's within PEFT's wrappers.
    """
    key = key.removeprefix("base_model.model.").removeprefix("model.")
    return _renamed(key, [*((long, short) for short, long in _LAYOUT), ("language_model.lm_head.", "lm_head.")])


def exported(name: str) -> str:
    """The canonical name in the layout that transformers 4.57 and 5.23 both read without a remainder."""
    return _renamed(name, _LAYOUT)


def _renamed(name: str, prefixes: Iterable[tuple[str, str]]) -> str:
    old, new = next((pair for pair in prefixes if name.startswith(pair[0])), ("", ""))
    return new + name.removeprefix(old)

"""Hugging Face's config.json and ours, both ways."""

import math
from collections.abc import Mapping
from typing import Any

from rllava_jax.checkpoint.errors import CheckpointMismatch
from rllava_jax.interop.errors import MalformedImport, UnsupportedExport, UnsupportedImport
from rllava_jax.model.sizes import GEMMA, GemmaConfig, PaliGemmaConfig, SiglipConfig

# Our names of the numbers → theirs, in the order of published files, and what transformers' configuration classes fill
# in, and published files therefore leave out, by the model_type; None where a tower has no such number.
_MODEL_TYPES = ("siglip_vision_model", "gemma", "gemma2")
_NUMBERS: dict[str, tuple[str, tuple[int | None, int | None, int | None]]] = {
    "width": ("hidden_size", (768, 3072, 2304)),
    "mlp": ("intermediate_size", (3072, 24_576, 9216)),
    "depth": ("num_hidden_layers", (12, 28, 26)),
    "heads": ("num_attention_heads", (12, 16, 8)),
    "kv_heads": ("num_key_value_heads", (None, 16, 4)),
    "head_dim": ("head_dim", (None, 256, 256)),
    "image_size": ("image_size", (224, None, None)),
    "patch": ("patch_size", (16, None, None)),
}
_SPECIAL_IDS = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
_EMBEDDING = "language_model.embed_tokens.weight"
_POSITIONS = "vision_tower.embeddings.position_embedding.weight"


def parse_config(
    values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], *, where: str
) -> tuple[PaliGemmaConfig, list[str]]:
    """The size that a config.json describes, and what the user should know.

    Args:
      values: the file's content.
      shapes: of the tensors, by canonical name: the rows of the embedding and the resolution are read from them.

    Raises:
      CheckpointError: another architecture, or a setting that this model does not have.
    """
    if values.get("model_type") not in ("paligemma", "rllava") or "text_config" not in values:
        raise UnsupportedImport(f"{where}: model_type is {values.get('model_type')!r}; give a PaliGemma or PaliGemma 2")
    for part in ("text_config", "vision_config"):
        if not isinstance(values.get(part) or {}, Mapping):
            raise MalformedImport(f"{where}: {part} is not a mapping; download the folder again")
    text, vision = values["text_config"] or {}, values.get("vision_config") or {}
    kind = text.get("model_type", "gemma")
    if kind not in _MODEL_TYPES[1:]:
        raise UnsupportedImport(f"{where}: text_config.model_type is {kind!r}; this version reads gemma and gemma2")
    decoder = _numbers(text, kind, f"{where}: text_config")
    tower = _numbers(vision, _MODEL_TYPES[0], f"{where}: vision_config")
    _require_supported(text, vision, where)
    for key in (_EMBEDDING, _POSITIONS):
        if len(shapes.get(key, ())) != 2:
            raise CheckpointMismatch(f"{where}: the weights beside it have no {key}; give one whole model's folder")
    patches = shapes[_POSITIONS][0]
    if math.isqrt(patches) ** 2 != patches:
        raise UnsupportedImport(f"{where}: {patches} position embeddings are no square grid; give a PaliGemma")
    gemma2 = kind == "gemma2"
    rope = text.get("rope_parameters") or {}
    scalar = text.get("query_pre_attn_scalar", 256) if gemma2 else decoder["head_dim"]
    size = PaliGemmaConfig(
        SiglipConfig(**tower | {"image_size": math.isqrt(patches) * tower["patch"]}),
        GemmaConfig(
            **decoder,
            query_scale=scalar**-0.5,
            post_norms=gemma2,
            attention_cap=float(text.get("attn_logit_softcapping", 50.0) or 0.0) if gemma2 else 0.0,
            rope_base=float(rope.get("rope_theta") or text.get("rope_theta") or 10_000.0),
            vocab=shapes[_EMBEDDING][0],
        ),
    )
    return size, _notes(text, size) if gemma2 else []


def _notes(text: Mapping[str, Any], size: PaliGemmaConfig) -> list[str]:
    """What a Gemma 2's settings say that this model leaves out."""
    notes = []
    if cap := text.get("final_logit_softcapping", 30.0):
        notes.append(
            f"its config.json caps the final logits at {cap}, which training and this project leave out: the order of "
            "answers is the same, probabilities are sharper"
        )
    window, patches = text.get("sliding_window"), size.vision.grid**2
    if window and window < patches + 64:
        notes.append(
            f"its config.json lets every second layer see {window} positions only, fewer than image and question have; "
            "training and this project leave such windows out"
        )
    return notes


def _numbers(given: Mapping[str, Any], model_type: str, where: str) -> dict[str, Any]:
    """A tower's numbers under our names."""
    numbers = {}
    for ours, (theirs, defaults) in _NUMBERS.items():
        default = defaults[_MODEL_TYPES.index(model_type)]
        value = given.get(theirs, default)
        if default and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise MalformedImport(f"{where}.{theirs} is {value!r}; it must be a whole number above 0")
        # Before anything is built of it: no published model has a number like that.
        if default and value > (most := 1024 if ours == "depth" else 2**20):
            raise MalformedImport(f"{where}.{theirs} is {value!r}; it must be at most {most:,}")
        if default:
            numbers[ours] = value
    return numbers


def _require_supported(text: Mapping[str, Any], vision: Mapping[str, Any], where: str) -> None:
    """What the modules have no setting for must have the one value that they implement."""
    activation = text.get("hidden_activation") or text.get("hidden_act") or "gelu_pytorch_tanh"
    scaling = text.get("rope_parameters") or text.get("rope_scaling") or {}
    rope = scaling.get("rope_type") or scaling.get("type") or "default"  # its older name
    only = {
        # transformers reads Gemma 1's "gelu" as the tanh approximation, by a slip of its first release.
        "text_config.hidden_activation": (activation, ("gelu_pytorch_tanh", "gelu", "gelu_fast", "gelu_new")),
        "text_config.rms_norm_eps": (text.get("rms_norm_eps", 1e-6), (1e-6,)),
        "text_config.rope type": (rope, ("default",)),
        "vision_config.hidden_act": (vision.get("hidden_act", "gelu_pytorch_tanh"), ("gelu_pytorch_tanh",)),
        "vision_config.layer_norm_eps": (vision.get("layer_norm_eps", 1e-6), (1e-6,)),
    }
    for field, (value, supported) in only.items():
        if value not in supported:
            raise UnsupportedImport(f"{where}: {field} is {value!r}; this model has {supported[0]!r} only")


def config_json(size: PaliGemmaConfig, *, rows: int, image_token: int, dtype: str) -> dict[str, Any]:
    """The config.json of a plain PaliGemma, for transformers 4.57 and 5.23.

    Args:
      rows: of the exported token embedding.
      image_token: id of `<image>`.
      dtype: of the weights.

    Raises:
      CheckpointError: a decoder of another family.
    """
    decoder, vision = size.decoder, size.vision
    if decoder.family != GEMMA:
        raise UnsupportedExport(
            "model.size: its decoder is of another family than Gemma 1 and 2, for which PaliGemma's config.json has no "
            "place; keep it as a checkpoint of this project"
        )
    return {
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "model_type": "paligemma",
        **_SPECIAL_IDS,
        "image_token_index": image_token,
        "hidden_size": decoder.width,
        "projection_dim": decoder.width,
        "num_hidden_layers": decoder.depth,
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
        # Of the version that the tests ran with. Without it 4.57 warns, wrongly, of a tokenizer with a faulty pattern.
        "transformers_version": "5.23.0",
        "text_config": _text_config(size, rows=rows, dtype=dtype),
        "vision_config": {
            "model_type": "siglip_vision_model",
            **{theirs: getattr(vision, ours) for ours, (theirs, _) in _NUMBERS.items() if hasattr(vision, ours)},
            "num_image_tokens": vision.grid**2,
            "projection_dim": decoder.width,
            "projector_hidden_act": "gelu_fast",
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
            "vision_use_head": False,
        },
    }


def _text_config(size: PaliGemmaConfig, *, rows: int, dtype: str) -> dict[str, Any]:
    decoder = size.decoder
    text: dict[str, Any] = {
        "model_type": "gemma2" if decoder.post_norms else "gemma",
        "vocab_size": rows,
        **{theirs: getattr(decoder, ours) for ours, (theirs, _) in _NUMBERS.items() if hasattr(decoder, ours)},
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "rope_theta": decoder.rope_base,
        "max_position_embeddings": 8192,
        "num_image_tokens": size.vision.grid**2,
        **_SPECIAL_IDS,
        "tie_word_embeddings": True,
        "use_cache": True,
        "torch_dtype": dtype,
    }
    if decoder.post_norms:
        text |= {
            # Wide enough never to cut, as in training; 4096 is published, which is just short of 896 pixels' sequence.
            "sliding_window": max(4096, size.vision.grid**2 + 4096),
            "query_pre_attn_scalar": _whole(decoder.query_scale**-2),
            "attn_logit_softcapping": decoder.attention_cap or None,
            # As in training: the cap of Gemma 2's own release is left out.
            "final_logit_softcapping": None,
        }
    return text


def _whole(value: float) -> float | int:
    """The number that config files write: 256, not 256.00000000000006."""
    return round(value) if math.isclose(value, round(value), rel_tol=1e-12) else value


def generation_config_json() -> dict[str, Any]:
    """Greedy decoding, as every reported score uses, with PaliGemma's special ids."""
    return {**_SPECIAL_IDS, "do_sample": False}

"""The files of an exported Hugging Face folder that are neither weights nor tokenizer: remote code and processor files.

A model without regions needs no code of ours and gets PaliGemma's own processor. A model with regions brings
`remote_code/` with it, and beside it the very files that prepare pixels here.
"""

import dataclasses
import json
from importlib import resources
from typing import Any

from rllava_jax.config import Config
from rllava_jax.model.sizes import model_size

_MODEL = "RllavaPaliGemmaForConditionalGeneration"


def remote_code_files() -> dict[str, bytes]:
    """File names to contents: the Python files that a folder with regions holds."""
    code = resources.files("rllava_jax.interop.remote_code").iterdir()
    files = [file for file in code if file.name.endswith("_rllava.py")]
    # These use NumPy and Pillow only, which makes copying them possible.
    files.append(resources.files("data_pipelines.images") / "pixels.py")
    files.append(resources.files("data_pipelines.regions") / "overlay.py")
    return {file.name: file.read_bytes() for file in files}


def region_config_json(config: Config) -> dict[str, Any]:
    """What config.json of a model with regions has beside PaliGemma's own entries, some of which it replaces."""
    auto_map = {
        "AutoConfig": "configuration_rllava.RllavaConfig",
        "AutoModelForImageTextToText": f"modeling_rllava.{_MODEL}",
    }
    return {"architectures": [_MODEL], "auto_map": auto_map, "rllava": _settings(config)}


def processor_files(config: Config) -> dict[str, bytes]:
    """File names to contents: what AutoProcessor reads, with regions or without.

    preprocessor_config.json is PaliGemma's own with this project's filter, bilinear: its default, bicubic, is not what
    was trained with. Transformers 4.57 and 5.23 both read it. Pillow's filter differs from the reference's by rounding.
    """
    files = {"preprocessor_config.json": json_file(_image_processor(config))}
    if config.regions.encoders:
        # Its class name decides before that of the other files, so AutoProcessor asks for trust_remote_code.
        auto_map = {"AutoProcessor": "processing_rllava.RllavaProcessor"}
        values = {"processor_class": "RllavaProcessor", "auto_map": auto_map, "rllava": _settings(config)}
        files["processor_config.json"] = json_file(values)
    return files


def _settings(config: Config) -> dict[str, Any]:
    """The section `rllava`; `RllavaConfig` documents it."""
    vision = model_size(config.model).vision
    return {
        "image_size": vision.image_size,
        "patch_size": vision.patch,
        "prompt": dict(config.data.prompt),
        "regions": dataclasses.asdict(config.regions) | {"encoders": list(config.regions.encoders)},
    }


def _image_processor(config: Config) -> dict[str, Any]:
    vision = model_size(config.model).vision
    return {
        "image_processor_type": "SiglipImageProcessor",
        "processor_class": "PaliGemmaProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": vision.image_size, "width": vision.image_size},
        "resample": 2,  # Pillow's bilinear
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_seq_length": vision.grid**2,
    }


def json_file(content: dict[str, Any]) -> bytes:
    """A JSON file as Hugging Face's folders have them."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()

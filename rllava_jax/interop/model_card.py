"""README.md of an exported folder: what the model is, what it saw, how well it does, and how it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rllava_jax import __version__
from rllava_jax.config import Config
from rllava_jax.evaluation.metrics import metrics_of
from rllava_jax.evaluation.results import markdown_table
from rllava_jax.evaluation.summary import HEADLINE
from rllava_jax.model.sizes import model_size
from rllava_jax.provenance import CONVERSION_FILE

_DATA = {
    "slake": "SLAKE (arXiv 2102.09542)",
    "vqa_rad": "VQA-RAD (Scientific Data 5, 180251)",
    "phantom": "phantoms drawn by the project",
}
_ENCODERS = {
    "crop": "`crop` (the region's original pixels through the same SigLIP)",
    "align": "`align` (RoIAlign over the image's features)",
    "overlay": "`overlay` (the region drawn into the image)",
    "loc": "`loc` (four loc tokens in the prompt)",
}


class Trained(Protocol):
    """What the card says of a checkpoint."""

    @property
    def folder(self) -> Path:
        """Of its checkpoints."""
        ...

    @property
    def step(self) -> int:
        """Of the checkpoint."""
        ...

    @property
    def files(self) -> Mapping[str, bytes]:
        """Its assets."""
        ...


def model_card(trained: Trained, config: Config, *, adapter: bool, dtype: str, licence: str) -> str:
    """The card, as Markdown with the hub's front matter.

    Args:
      config: of the exported weights.
      adapter: whether LoRA adapters lie beside the base, unmerged.
      licence: "" is the base model's, which for published PaliGemma weights is Gemma's.
    """
    base = json.loads(trained.files[CONVERSION_FILE]) if CONVERSION_FILE in trained.files else None
    licence = licence or ("gemma" if base else "other")
    sections = [
        _front_matter(config, licence),
        f"# {config.model.size}" + (", with regions of interest" if config.regions.encoders else ""),
        "A PaliGemma for questions about medical images, exported by "
        f"rllava_jax {__version__}. *Research use, not a medical device.*",
        _origin(trained, config, base, dtype),
        _usage(config, adapter=adapter),
        _evaluation(trained),
        _licence(licence, base),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(config: Config, licence: str) -> str:
    tags = ["medical", "visual-question-answering", "paligemma"]
    if config.regions.encoders:
        tags.append("region-of-interest")
    lines = ["---", f"license: {licence}", "library_name: transformers", "pipeline_tag: image-text-to-text", "tags:"]
    return "\n".join([*lines, *(f"- {tag}" for tag in tags), "---"])


def _origin(trained: Trained, config: Config, base: Mapping[str, Any] | None, dtype: str) -> str:
    facts = {
        "base": _base(base),
        "training": _training(trained, config),
        "regions": _regions(config),
        "prompt": " and ".join(f"`{template}`" for template in config.data.prompt.values())
        + ", then a newline; `bos` before, `eos` after the answer",
        "image": "resized to a square, bilinear with antialiasing, pixels in −1…1 (SigLIP's default is bicubic)",
        "weights": dtype,
    }
    return "## What it is\n\n| | |\n|:--|:--|\n" + "\n".join(f"| {name} | {value} |" for name, value in facts.items())


def _base(base: Mapping[str, Any] | None) -> str:
    if base is None:
        return "random weights"
    return f"{base.get('model') or base['source']} ({base['format']}, {base['dtype']})"


def _regions(config: Config) -> str:
    encoders = ", ".join(_ENCODERS[name] for name in config.regions.encoders)
    return f"{encoders}; at most {config.regions.max_regions}" if encoders else "none"


def _training(trained: Trained, config: Config) -> str:
    if trained.step == 0:
        return "none: converted as it was"
    data, policy = config.data, config.data.policy
    return (
        f"{_DATA[data.source]}, split `{data.train_split}`, languages {', '.join(data.languages)}; {trained.step} "
        f"steps of {config.train.batch_size}; {_trained_part(trained, config)}; learning rate "
        f"{config.optimizer.learning_rate:g}; a region shown in {policy.shown:.0%} of the ordinary examples that have "
        f"one, {policy.wrong:.0%} of those shown wrong on purpose; seed {config.seed}"
    )


def _trained_part(trained: Trained, config: Config) -> str:
    if config.optimizer.trainable:
        return f"the parameters {', '.join(f'`{pattern}`' for pattern in config.optimizer.trainable)}"
    # Of the run: in the exported configuration adapters that were merged are gone.
    lora = json.loads(trained.files["config.json"])["config"].get("lora", {"rank": 0})
    if not lora["rank"]:
        return "all weights"
    return f"LoRA r {lora['rank']}, alpha {lora['alpha']:g} on {', '.join(lora['targets'])}"


def _usage(config: Config, *, adapter: bool) -> str:
    if config.regions.encoders:
        code = """from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained(FOLDER, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(FOLDER, trust_remote_code=True)
image = Image.open("scan.png")
# A box is x, y, width, height in pixels of the image; a mask is a boolean array of its size.
inputs = processor(images=image, text="what is the marked structure?", regions=[(120, 88, 64, 70)], return_tensors="pt")
tokens = model.generate(**inputs, max_new_tokens=20)
print(processor.answers(tokens, inputs)[0])"""
    else:
        # Gemma 2 caps attention logits; the fused attention that transformers 4 prefers leaves the cap out silently.
        eager = ', attn_implementation="eager"' if model_size(config.model).decoder.attention_cap else ""
        prompt = config.data.prompt["answer"].replace("{regions}", "").replace("{language}", "en")
        code = f'''from PIL import Image
from transformers import AutoProcessor, PaliGemmaForConditionalGeneration

model = PaliGemmaForConditionalGeneration.from_pretrained(FOLDER{eager})
processor = AutoProcessor.from_pretrained(FOLDER)
prompt = "{prompt}".format(question="which organ is shown?")
inputs = processor(images=Image.open("scan.png").convert("RGB"), text="<image>" + prompt, return_tensors="pt")
tokens = model.generate(**inputs, max_new_tokens=20)
print(processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])'''
    lines = ["## Use", f"```python\n{code}\n```"]
    if adapter:
        lines.append(
            "The weights here are the base without its LoRA adapters, which lie in `adapter/`: "
            '`model = peft.PeftModel.from_pretrained(model, FOLDER + "/adapter")`.'
        )
    return "\n\n".join(lines)


def _evaluation(trained: Trained) -> str:
    path = trained.folder.parent / "eval" / str(trained.step) / "metrics.json"
    if not path.is_file():
        return "## Evaluation\n\nNone was run at this step." if trained.step else ""
    rows = json.loads(path.read_text(encoding="utf-8"))
    shown = [
        row
        for subset in HEADLINE
        for row in rows
        if row["subset"] == subset and row["metric"] in metrics_of(subset)[:1]
    ]
    sets = sorted({f"{row['dataset']}, split {row['split']}" for row in shown})
    return (
        f"## Evaluation\n\n{'; '.join(sets)}; percent with 95 % intervals by image. right: the region as annotated; "
        "none: without it; wrong: another one; blank: a grey image with the right region named, which shows what can "
        f"be told without looking.\n\n{markdown_table(shown).rstrip()}"
    )


def _licence(licence: str, base: Mapping[str, Any] | None) -> str:
    if licence == "gemma":
        text = (
            "The base model is PaliGemma, which Google publishes under the Gemma Terms of Use; they, and their "
            "prohibited-use policy, hold for these weights too."
        )
    elif base is None and licence == "other":
        text = "The weights were trained from random numbers; whoever publishes them names their licence here."
    else:
        text = f"{licence}."
    return (
        f"## Licence\n\n{text} The data it was trained on has its own terms. The Python files in this folder, if any, "
        "are under Apache-2.0."
    )

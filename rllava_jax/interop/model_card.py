"""README.md of an exported folder: what the model is, what it saw, how well it does, and how it is used."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from data_pipelines.regions.encoders.protocol import region_encoders
from rllava_jax import __version__
from rllava_jax.checkpoint.errors import CheckpointError
from rllava_jax.config import Config
from rllava_jax.evaluation.metrics import Row, metrics_of
from rllava_jax.evaluation.results import markdown_table
from rllava_jax.evaluation.subsets import HEADLINE
from rllava_jax.inference.calibration import CALIBRATION_FILE, calibration_of
from rllava_jax.interop.lineage import Stage, is_published, lineage
from rllava_jax.interop.stored_params import StoredCheckpoint
from rllava_jax.model.sizes import model_size

_DATA = {
    "slake": "SLAKE (arXiv 2102.09542)",
    "vqa_rad": "VQA-RAD (Scientific Data 5, 180251)",
    "phantom": "phantoms drawn by the project",
    "documents": "contract pages drawn by the project",
}
# The other families' questions speak of "the marked structure".
_WITHOUT_REGION = ("has_region=yes", "family=vqa", "family=localise")
# Words that YAML reads as something else than text.
_YAML_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def model_card(trained: StoredCheckpoint, config: Config, *, adapter: bool, dtype: str, licence: str) -> str:
    """The card, as Markdown with the hub's front matter.

    Args:
      config: of the exported weights.
      adapter: whether LoRA adapters lie beside the base, unmerged.
      licence: "" is the base model's, which for published PaliGemma weights is Gemma's.
    """
    stages = lineage(trained.files, trained.config, folder=trained.folder, step=trained.step)
    licence = _one_line(licence)
    size = "PaliGemma of a custom size" if config.model.size == "custom" else config.model.size
    sections = [
        _front_matter(config, licence or ("gemma" if is_published(stages) else "other")),
        f"# {size}" + (", with regions of interest" if config.regions.encoders else ""),
        "A PaliGemma for questions about medical images, exported by "
        f"rllava_jax {__version__}. *Research use, not a medical device.*",
        _facts(trained.config, config, dtype, adapter=adapter),
        _origin(stages),
        _usage(config),
        _adapter(trained.config, config, stages) if adapter else "",
        _evaluation(trained, config, stages),
        _confidence(trained, config),
        _licence(licence, stages),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _one_line(text: str) -> str:
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())


def _front_matter(config: Config, licence: str) -> str:
    tags = ["medical", "visual-question-answering", "paligemma"]
    if config.regions.encoders:
        tags.append("region-of-interest")
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9.+-]*", licence) and licence.lower() not in _YAML_WORDS
    quoted = licence if plain else json.dumps(licence, ensure_ascii=False)
    lines = ["---", f"license: {quoted}", "library_name: transformers", "pipeline_tag: image-text-to-text", "tags:"]
    return "\n".join([*lines, *(f"- {tag}" for tag in tags), "---"])


def _facts(run: Config, config: Config, dtype: str, *, adapter: bool) -> str:
    facts = {
        "regions": _regions(run, config),
        "prompt": " and ".join(f"`{template}`" for template in config.data.prompt.values())
        + ", then a newline; `bos` before, `eos` after the answer",
        "image": "resized to a square, bilinear with antialiasing, pixels in −1…1 (SigLIP's default is bicubic)",
        "weights": dtype + _adapters_fact(run, adapter=adapter),
    }
    return "## What it is\n\n| | |\n|:--|:--|\n" + "\n".join(f"| {name} | {value} |" for name, value in facts.items())


def _regions(run: Config, config: Config) -> str:
    if config.regions.encoders:
        encoders = ", ".join(encoder.summary for encoder in region_encoders(config.regions))
        return f"{encoders}; at most {config.regions.max_regions}"
    return (
        "none; the model was trained with them, and their branch is left out here" if run.regions.encoders else "none"
    )


def _adapters_fact(run: Config, *, adapter: bool) -> str:
    if not run.lora.rank:
        return ""
    return "; LoRA adapters beside them, in `adapter/`" if adapter else "; the LoRA adapters are added to them"


def _origin(stages: Sequence[Stage]) -> str:
    lines = [f"{number}. {_STAGES[stage['stage']](stage)}" for number, stage in enumerate(stages, start=1)]
    if not _trainings(stages):
        lines.append("\nIt was converted as it was: no training is known to have followed.")
    return "## Where it comes from\n\n" + "\n".join(lines)


def _trainings(stages: Sequence[Stage]) -> list[Stage]:
    return [stage for stage in stages if stage["stage"] == "trained"]


def _random_stage(stage: Stage) -> str:
    return "Random numbers."


def _imported_stage(stage: Stage) -> str:
    model = f" ({stage['model']})" if stage["model"] not in ("", stage["source"]) else ""
    size = "a custom size" if stage["size"] == "custom" else stage["size"]
    details = [stage["format"], stage["dtype"], f"of {size}" if stage["size"] else ""]
    return f"Imported: `{stage['source'] or 'a model'}`{model}, {', '.join(part for part in details if part)}."


def _unknown_stage(stage: Stage) -> str:
    return (
        f"Imported: `{stage['source']}`, a folder that rllava_jax had exported, without its record of what came before."
    )


def _exported_stage(stage: Stage) -> str:
    adapters = {"merged": ", its LoRA adapters added to the weights", "kept": ", its LoRA adapters beside the weights"}
    regions = ", without its region branch" if stage["regions"] == "left out" else ""
    return f"Exported in {stage['dtype']}{adapters.get(stage['adapters'], '')}{regions}, and imported again."


def _trained_stage(stage: Stage) -> str:
    steps = f"{stage['steps']} step{'' if stage['steps'] == 1 else 's'}"
    if "data" not in stage:
        return f"Trained as `{stage['run']}`: {steps}; what on was not recorded."
    text = (
        f"Trained as `{stage['run']}`: {steps} of {stage['batch_size']} on {_DATA.get(stage['data'], stage['data'])}, "
        f"split `{stage['split']}`, languages {', '.join(stage['languages'])}; {_trained_part(stage)}; learning rate "
        f"{stage['learning_rate']:g}; seed {stage['seed']}"
    )
    if stage["regions"]:
        encoders = ", ".join(f"`{name}`" for name in stage["regions"])
        text += (
            f"; with regions ({encoders}): one shown in {stage['shown']:.0%} of the ordinary examples that have "
            f"one, {stage['wrong']:.0%} of those shown wrong on purpose"
        )
    return text + "."


_STAGES = {
    "random": _random_stage,
    "imported": _imported_stage,
    "unknown": _unknown_stage,
    "exported": _exported_stage,
    "trained": _trained_stage,
}


def _trained_part(stage: Stage) -> str:
    if stage["trainable"]:
        return f"the parameters {', '.join(f'`{pattern}`' for pattern in stage['trainable'])}"
    lora = stage["lora"]
    if not lora:
        return "all weights"
    branch = " and the region branch" if stage["regions"] else ""
    return f"LoRA r {lora['rank']}, alpha {lora['alpha']:g} on {', '.join(lora['targets'])}{branch}"


def _usage(config: Config) -> str:
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
    return f"## Use\n\n```python\n{code}\n```"


def _adapter(run: Config, config: Config, stages: Sequence[Stage]) -> str:
    """How the adapters are put on, and on what."""
    vision = any(target.startswith("vision.") for target in run.lora.targets)
    mapping = (
        " Adapters of the vision tower are named as in transformers 5; in 4.57 add "
        '`key_mapping={"vision_tower.encoder": "vision_tower.vision_model.encoder"}` to that call.'
    )
    return (
        "The weights here are the base without its LoRA adapters, which lie in `adapter/`: "
        '`model = peft.PeftModel.from_pretrained(model, FOLDER + "/adapter")`.'
        f"{mapping if vision else ''}\n\n{_base_of_adapter(run, config, stages)}"
    )


def _base_of_adapter(run: Config, config: Config, stages: Sequence[Stage]) -> str:
    if config.regions.encoders:
        return (
            "The adapters fit the weights in this folder: the region branch was trained together with them, and lies "
            "among these weights. The model that the training began with does not have it."
        )
    if run.regions.encoders:
        return "The adapters were trained together with a region branch, which this folder leaves out."
    if run.optimizer.trainable or (stages[0]["stage"] == "random" and len(_trainings(stages)) < 2):
        return "The adapters fit the weights in this folder."
    rounded = ", up to the rounding of that one to bfloat16" if run.model.frozen_dtype != "float32" else ""
    return f"The adapters fit the weights in this folder, and the model that their training began with{rounded}."


def _evaluation(trained: StoredCheckpoint, config: Config, stages: Sequence[Stage]) -> str:
    path = trained.folder.parent / "eval" / str(trained.step) / "metrics.json"
    if not path.is_file():
        text = "None was run at this step." if trained.step else "Results of earlier stages stand in their own cards."
        return f"## Evaluation\n\n{text}" if _trainings(stages) else ""
    try:
        rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{path}: is damaged ({error}); run --mode evaluate again, or move it away", code="file.malformed"
        ) from None
    subsets = HEADLINE if config.regions.encoders else _WITHOUT_REGION
    shown = [
        row
        for subset in HEADLINE
        for row in rows
        if row["subset"] == subset and subset in subsets and row["metric"] in metrics_of(subset)[:1]
    ]
    whose = "the model with its adapters; " if config.lora.rank else ""
    if config.regions.encoders:
        return _table(
            shown,
            f"{whose}right: the region as annotated; none: without it; wrong: another one; blank: a grey image with "
            "the right region named, which shows what can be told without looking.",
        )
    unmarked = [row for row in shown if row["condition"] == "none"]
    if not unmarked:
        return "## Evaluation\n\nNo question was asked as this folder is: without a region, and not about one."
    told = (
        "every question without a region, as this folder is asked. The same checkpoint with its region branch does "
        "otherwise, and questions about a marked structure are left out here: this folder cannot be shown one."
        if trained.config.regions.encoders
        else "every question without a region; the model has no region branch."
    )
    return _table(unmarked, whose + told)


def _confidence(trained: StoredCheckpoint, config: Config) -> str:
    calibration = calibration_of(trained.files, checkpoint=trained.folder / str(trained.step))
    if calibration is None or config.regions != trained.config.regions:
        return ""
    before, after = calibration.before["ece"].value, calibration.after["ece"].value
    return (
        "## Confidence\n\nThe chance that a greedy answer is right is sigmoid(logit(p) / T + b), p the probability of "
        f"the whole answer, its end included, T = {calibration.temperature.value:.3f}, "
        f"b = {calibration.bias.value:.3f}. Fitted on {calibration.questions:,} questions of {calibration.dataset}, "
        f"split {calibration.split}: ECE {before:.3f} raw, {after:.3f} calibrated, by cross-validation. "
        f"`{CALIBRATION_FILE}` also has thresholds by which answers can be withheld, with bounds of their error rates."
    )


def _table(rows: Sequence[Row], told: str) -> str:
    sets = sorted({f"{row['dataset']}, split {row['split']}" for row in rows})
    return (
        f"## Evaluation\n\n{'; '.join(sets)}; percent with 95 % intervals by image; {told}\n\n"
        f"{markdown_table(rows).rstrip()}"
    )


def _licence(licence: str, stages: Sequence[Stage]) -> str:
    named = f"{licence.rstrip('.')}. " if licence not in ("", "other", "gemma" if is_published(stages) else "") else ""
    trained = bool(_trainings(stages))
    if is_published(stages):
        text = (
            "The base model is PaliGemma, which Google publishes under the Gemma Terms of Use; they, and their "
            "prohibited-use policy, hold for these weights too."
        )
    elif named:
        text = ""
    elif stages[0]["stage"] == "random":
        text = (
            f"The weights {'were trained from' if trained else 'are'} random numbers; whoever publishes them names "
            "their licence here."
        )
    else:
        text = "The base model's licence is not known to the exporter; name it with `--licence`."
    data = "The data it was trained on has its own terms. " if trained else ""
    return (
        f"## Licence\n\n{f'{named}{text}'.strip()} {data}The Python files in this folder, if any, are under Apache-2.0."
    )

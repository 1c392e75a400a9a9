"""README.md of an exported folder: what the model is, what it saw, how well it does, and how it is used."""

import json
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from data_pipelines.regions.encoders.protocol import region_encoders
from rllava_jax import __version__
from rllava_jax.checkpoint.orbax_files import CALIBRATION_FILE
from rllava_jax.config import Config
from rllava_jax.evaluation.metrics import HEADLINE, metrics_of
from rllava_jax.evaluation.results import METRICS_FILE, markdown_table, read_rows
from rllava_jax.inference.calibration import calibration_of
from rllava_jax.interop.lineage import is_published, lineage
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
    """The card, as Markdown with the hub's front matter: `templates/model_card.md`, filled in.

    Args:
      config: of the exported weights.
      adapter: whether LoRA adapters lie beside the base, unmerged.
      licence: "" is the base model's, which for published PaliGemma weights is Gemma's.

    Raises:
      DataError: the results of its evaluation are damaged.
    """
    stages = lineage(trained.record.facts)
    published = is_published(stages)
    licence = "".join(letter for letter in " ".join(licence.split()) if letter.isprintable())
    calibration = calibration_of(trained.files, checkpoint=trained.folder / str(trained.step))
    # What it inserts is Markdown already, and nothing is escaped.
    loader = PackageLoader("rllava_jax.interop")
    environment = Environment(
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.get_template("model_card.md").render(
        version=__version__,
        run=trained.config,
        config=config,
        step=trained.step,
        adapter=adapter,
        vision=any(target.startswith("vision.") for target in trained.config.lora.targets),
        dtype=dtype,
        encoders=region_encoders(config.regions),
        capped=bool(model_size(config.model).decoder.attention_cap),
        stages=stages,
        trainings=[stage for stage in stages if stage["stage"] == "trained"],
        data_sets=_DATA,
        calibration=calibration if config.regions == trained.config.regions else None,
        calibration_file=CALIBRATION_FILE,
        published=published,
        licence=licence,
        hub_licence=_yaml_text(licence or ("gemma" if published else "other")),
        **_results(trained, config),
    )


def _yaml_text(text: str) -> str:
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9.+-]*", text) and text.lower() not in _YAML_WORDS
    return text if plain else json.dumps(text, ensure_ascii=False)


def _results(trained: StoredCheckpoint, config: Config) -> dict[str, Any]:
    """The evaluation at this step, as far as it was done in the way in which the exported weights are used."""
    path = trained.folder.parent / "eval" / str(trained.step) / METRICS_FILE
    if not path.is_file():
        return {"rows": None}
    rows = read_rows(path, remedy="run --mode evaluate again, or move it away")
    regions = bool(config.regions.encoders)
    shown = [
        row
        for subset in HEADLINE
        for row in rows
        if row["subset"] == subset
        and row["metric"] in metrics_of(subset)[:1]
        and (regions or (subset in _WITHOUT_REGION and row["condition"] == "none"))
    ]
    sets = sorted({f"{row['dataset']}, split {row['split']}" for row in shown})
    return {"rows": shown, "sets": sets, "table": markdown_table(shown).rstrip()}

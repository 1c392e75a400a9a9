"""The model card tells the whole way of the weights, their licence, and only what holds for the exported folder."""

import dataclasses
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from converted import run_convert
from tiny_models import tokenizer_file

from data_pipelines.text.tokenizer import Tokenizer
from rllava_jax import convert
from rllava_jax.checkpoint import provenance
from rllava_jax.checkpoint.provenance import StartedFrom
from rllava_jax.config import (
    Config,
    DataConfig,
    InitConfig,
    LoraConfig,
    ModelConfig,
    OptimizerConfig,
    PolicyConfig,
    RegionConfig,
    TrainConfig,
)
from rllava_jax.interop.lineage import exported_stage, import_record, lineage
from rllava_jax.interop.model_card import model_card
from rllava_jax.interop.stored_params import StoredCheckpoint
from rllava_jax.model.preprocessing import make_preprocessor

PLAIN = RegionConfig(encoders=())
GOOGLE = "which Google publishes under the Gemma Terms of Use"
RANDOM = "trained from random numbers; whoever publishes them names their licence here"
UNKNOWN = "The base model's licence is not known to the exporter; name it with `--licence`"
KEY_MAPPING = 'key_mapping={"vision_tower.encoder": "vision_tower.vision_model.encoder"}'


@dataclass(frozen=True)
class Checkpoint:
    """What the card reads of one; the arrays do not matter to it."""

    folder: Path
    step: int
    config: Config
    files: dict[str, bytes]

    @property
    def record(self):
        """What a run that starts from here writes down."""
        name = self.folder.parent.name
        return provenance.start_of(self.files, name=name, step=self.step, where="here")


def checkpoint(name="run", step=40, config=None, *, start=None, conversion=None):
    """Of a run, or with `conversion` and step 0 an import."""
    config = config or Config()
    if conversion is not None:
        assert start is None
        start = StartedFrom({}, json.dumps(conversion).encode())
    files = provenance.assets(config, make_preprocessor(config, Tokenizer(tokenizer_file(), "tokenizer.model")), start)
    if conversion is not None:
        values = json.loads(files["config.json"])
        del values["started_from"]
        files["config.json"] = json.dumps(values).encode()
    return Checkpoint(Path("/somewhere/secret") / name / "checkpoints", step, config, files)


def imported(size="paligemma-3b-224", config=None, **facts):
    facts = {"format": "big_vision npz", "dtype": "bfloat16"} | facts
    record = import_record(Path("/somewhere/secret/pt-224.npz"), facts, size=size, ours=False)
    return checkpoint("pt", 0, config or Config(regions=PLAIN), conversion=record)


def card(trained, config=None, *, adapter=False, licence=""):
    text = model_card(trained, config or trained.config, adapter=adapter, dtype="bfloat16", licence=licence)
    assert "somewhere" not in text
    assert "secret" not in text
    return text


def section(text, title):
    return re.search(rf"^## {title}\n\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]


def front_matter(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_a_run_that_started_from_a_run_tells_both():
    lora = LoraConfig(rank=12, alpha=32.0, targets=("q", "v"))
    first = checkpoint(
        "d", 400, Config(regions=PLAIN, data=DataConfig(source="slake", root="/somewhere/slake"), seed=3)
    )
    init = InitConfig("/somewhere/secret/d")
    second = checkpoint("e", 30, Config(init=init, lora=lora, train=TrainConfig(batch_size=4)), start=first.record)
    third = checkpoint("f", 5, Config(init=init, regions=PLAIN), start=second.record)
    for last, stages in ((second, 3), (third, 4)):
        text = card(last)
        origin = section(text, "Where it comes from").strip().splitlines()
        assert len(origin) == stages
        assert origin[0] == "1. Random numbers."
        assert origin[1].startswith("2. Trained as `d`: 400 steps of 32 on SLAKE (arXiv 2102.09542), split `train`")
        assert "all weights" in origin[1]
        assert "seed 3" in origin[1]
        assert "region" not in origin[1]
        assert origin[2].startswith("3. Trained as `e`: 30 steps of 4 on phantoms drawn by the project")
        assert "LoRA r 12, alpha 32 on q, v and the region branch" in origin[2]
        assert RANDOM in section(text, "Licence")
        assert front_matter(text)["license"] == "other"


def test_a_start_that_was_recorded_before_facts_of_training_were():
    start = StartedFrom({"name": "d", "step": 1}, None)
    assert "2. Trained as `d`: 1 step; what on was not recorded." in card(checkpoint("e", start=start))


def test_weights_of_a_published_size_from_elsewhere_are_gemmas():
    base = imported()
    for trained in (base, checkpoint("slake", 100, start=base.record)):
        text = card(trained)
        assert front_matter(text)["license"] == "gemma"
        assert GOOGLE in section(text, "Licence")
        first = "1. Imported: `pt-224.npz`, big_vision npz, bfloat16, of paligemma-3b-224."
        assert first in section(text, "Where it comes from")
        assert ("converted as it was" in text) == (trained is base)
        assert ("The data it was trained on" in text) == (trained is not base)


@pytest.mark.parametrize("size", ["custom", "tiny"])
def test_a_base_of_unknown_origin_has_no_known_licence(size):
    text = card(imported(size))
    assert front_matter(text)["license"] == "other"
    assert UNKNOWN in text
    assert "Google" not in text
    named = card(imported(size), licence="mit")
    assert front_matter(named)["license"] == "mit"
    assert "mit." in section(named, "Licence")
    assert "not known" not in named


@pytest.mark.parametrize(
    "licence",
    ["CC BY 4.0: see file", "no", "NULL", "# none", "a\nb: c", 'say "so"', "- x", "apache-2.0", "1.0", "*", "私的"],
)
def test_any_licence_leaves_the_front_matter_whole(licence):
    values = front_matter(card(checkpoint(), licence=licence))
    assert values["license"] == " ".join(licence.split())
    assert values["library_name"] == "transformers"
    assert set(values) == {"license", "library_name", "pipeline_tag", "tags"}


def test_regions_are_told_where_the_run_had_them():
    policy = DataConfig(policy=PolicyConfig(shown=0.25))
    assert "one shown in 25% of" in card(checkpoint(config=Config(data=policy)))
    without = card(checkpoint(config=Config(data=policy, regions=PLAIN)))
    assert "shown" not in section(without, "Where it comes from")
    assert "| regions | none |" in without


# Adapters.


def kept(trained, **changes):
    """The card of its `--keep-lora`."""
    return section(card(trained, replace(trained.config, **changes), adapter=True), "Use")


def test_adapters_of_the_vision_tower_are_renamed_for_transformers_4():
    for targets, expected in ((("q", "head"), False), (("q", "vision.fc1"), True)):
        assert (KEY_MAPPING in kept(checkpoint(config=Config(lora=LoraConfig(rank=2, targets=targets))))) == expected


def test_adapters_fit_the_original_base_only_without_regions():
    lora, base = LoraConfig(rank=2), imported()
    marked = checkpoint(config=Config(lora=lora), start=base.record)
    with_regions = kept(marked)
    assert "fit the weights in this folder: the region branch was trained together with them" in with_regions
    assert "does not have it" in with_regions
    assert "which this folder leaves out" in kept(marked, regions=PLAIN)
    config = Config(lora=lora, regions=PLAIN)
    assert "began with, up to the rounding of that one to bfloat16." in kept(
        checkpoint(config=config, start=base.record)
    )
    exact = replace(config, model=ModelConfig(frozen_dtype="float32"))
    assert "their training began with." in kept(checkpoint(config=exact, start=base.record))
    own = "The adapters fit the weights in this folder.\n"
    assert own in kept(checkpoint(config=config))
    more = replace(config, optimizer=OptimizerConfig(trainable=("llm/.*",)))
    assert own in kept(checkpoint(config=more, start=base.record))


# Results.


def test_the_plain_folder_of_a_region_run_shows_results_without_regions_alone(finished_run):
    stored = StoredCheckpoint.open(finished_run)
    whole = model_card(stored, stored.config, adapter=False, dtype="float32", licence="")
    assert "| questions | metric | n | right | none | wrong | blank |" in whole
    assert "family=identify" in whole
    text = model_card(stored, replace(stored.config, regions=PLAIN), adapter=False, dtype="float32", licence="")
    table = section(text, "Evaluation")
    assert "| questions | metric | n | none |" in table
    assert "every question without a region, as this folder is asked" in table
    assert "family=vqa" in table
    for absent in ("right", "wrong", "blank", "identify"):
        assert absent not in table
    assert "| regions | none; the model was trained with them, and their branch is left out here |" in text


def test_a_region_free_run_shows_one_column(tmp_path):
    row = {"dataset": "slake", "split": "test", "metric": "accuracy", "value": 0.5, "n": 8}
    row |= {"ci_low": None, "ci_high": None}
    rows = [
        row | {"subset": f"family={family}", "condition": condition}
        for family in ("identify", "vqa")
        for condition in ("right", "none", "blank")
    ]
    trained = replace(checkpoint(config=Config(regions=PLAIN)), folder=tmp_path / "run" / "checkpoints")
    results = tmp_path / "run" / "eval" / "40"
    results.mkdir(parents=True)
    (results / "metrics.json").write_text(json.dumps(rows))
    assert "| family=vqa | accuracy | 8 | 50.0 |\n" in section(card(trained), "Evaluation")
    (results / "metrics.json").write_text(json.dumps(rows[:1]))
    assert "No question was asked as this folder is" in section(card(trained), "Evaluation")


# Through export and import.


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "theirs"
    run_convert("export", finished_run, folder, "--plain", "--dtype", "bfloat16")
    return folder


def test_the_way_of_a_model_survives_export_and_import(exported, finished_run, tmp_path):
    run_convert("import", exported, tmp_path / "again")
    run_convert("export", tmp_path / "again", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    origin = section(text, "Where it comes from").strip().splitlines()
    assert [line.partition(":")[0] for line in origin] == [
        "1. Random numbers.",
        "2. Trained as `finished`",
        "3. Exported in bfloat16, without its region branch, and imported again.",
    ]
    assert "14 steps of 8 on phantoms drawn by the project" in origin[1]
    assert front_matter(text)["license"] == "other"
    assert RANDOM in text
    assert "Google" not in text
    records = [path.read_text() for folder in (exported, tmp_path) for path in folder.rglob("conversion.json")]
    assert len(records) == 4  # exported, imported and its asset, exported again
    for written in (text, *records):
        assert str(tmp_path) not in written
        assert str(finished_run.parent) not in written
    # A run that starts there tells it too.
    again = StoredCheckpoint.open(tmp_path / "again")
    start = provenance.start_of(again.files, name="again", step=0, where="again")
    stages = lineage(checkpoint(start=start).record.facts)
    assert [stage["stage"] for stage in stages] == ["random", "trained", "exported", "trained"]
    assert [stage["run"] for stage in stages if stage["stage"] == "trained"] == ["finished", "run"]


def test_a_folder_whose_record_is_gone_is_of_unknown_origin(exported, tmp_path):
    (exported_again := tmp_path / "copy").mkdir()
    record = import_record(exported_again, {"format": "Hugging Face"}, size="paligemma-3b-224", ours=True)
    text = card(checkpoint("again", 0, Config(regions=PLAIN), conversion=record))
    assert "1. Imported: `copy`, a folder that rllava_jax had exported, without its record" in text
    assert UNKNOWN in text
    assert front_matter(text)["license"] == "other"


@pytest.mark.parametrize(
    "damage",
    [
        {"stage": "other"},
        {"stage": "trained", "run": "d"},
        {"stage": "trained", "run": "d", "steps": "many"},
        {"stage": "trained", "run": "d", "steps": 3, "data": "slake"},
        "a line",
    ],
)
def test_a_damaged_record_is_one_line(exported, tmp_path, capsys, damage):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in exported.iterdir():
        (copy / path.name).symlink_to(path)
    (copy / "conversion.json").unlink()
    (copy / "conversion.json").write_text(json.dumps({"lineage": [damage]}))
    assert convert.main(["import", str(copy), str(tmp_path / "out")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert line.startswith(f"error: {copy / 'conversion.json'}: ")
    assert not (tmp_path / "out").exists()


def test_no_path_of_a_machine_stays_in_a_stage(tmp_path):
    early = {"source": "/somewhere/secret/pt.npz", "model": "/somewhere/secret/saved", "format": "Hugging Face"}
    early |= {"dtype": "float32", "size": "custom"}
    (stage,) = lineage(checkpoint("pt", 0, conversion=early).record.facts)
    assert (stage["source"], stage["model"]) == ("pt.npz", "saved")
    facts = {"stage": "trained", "steps": 2, **provenance.training_facts(Config())}
    past = [stage | {"model": "google/paligemma"}, facts | {"run": "/somewhere/d"}, {"stage": "random", "x": "/home"}]
    (tmp_path / "conversion.json").write_text(json.dumps({"lineage": past}))
    record = import_record(tmp_path, {}, size="custom", ours=True)
    assert [stage.get("model") or stage.get("run") for stage in record["lineage"]] == ["google/paligemma", "d", None]
    assert record["lineage"][2] == {"stage": "random"}


def test_an_export_tells_what_became_of_adapters_and_regions():
    config = Config(lora=LoraConfig(rank=2))
    merged = exported_stage(config, dataclasses.replace(config, lora=LoraConfig()), dtype="float16")
    assert merged == {"stage": "exported", "dtype": "float16", "adapters": "merged", "regions": "kept"}
    plain = exported_stage(config, dataclasses.replace(config, regions=PLAIN), dtype="float16")
    assert (plain["adapters"], plain["regions"]) == ("kept", "left out")

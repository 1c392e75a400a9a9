"""A run planned for hardware that is not here: its shapes, its figures, and what it says when something is missing."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn_of_jax

from data_pipelines.loading.loader import training_iterator
from rllava_jax.config import Config, ConfigError, DataConfig, ModelConfig, PhantomConfig, RegionConfig, TrainConfig
from rllava_jax.inference.run_data import load_run_data
from rllava_jax.main import main
from rllava_jax.model.sizes import model_size
from rllava_jax.planning import plan as planning
from rllava_jax.planning import topology as topologies
from rllava_jax.planning.chips import CHIPS, GIB, roofline
from rllava_jax.planning.command import as_json, as_text
from rllava_jax.planning.memory import Memory, out_of_memory
from rllava_jax.planning.plan import abstract_batch, make_plan, run_length
from rllava_jax.planning.topology import parse_topology, require_compiler
from rllava_jax.planning.traffic import Collective

_ROOT = Path(__file__).parents[1]
_LIBTPU = Path(os.environ.get("RLLAVA_LIBTPU", _ROOT / ".venv" / "libtpu"))

CONFIG = Config(
    model=ModelConfig(image_size=56, remat="full", layers="scanned", compute_dtype="float32"),
    regions=RegionConfig(encoders=("crop", "align", "loc"), max_regions=2, crop_size=28, tokens=4),
    data=DataConfig(
        tokenizer_vocab=600,
        families={"vqa": 0.5, "identify": 0.5},
        phantom=PhantomConfig(train_images=6, validate_images=1, test_images=1, image_size=96),
    ),
    train=TrainConfig(duration="3 epochs", batch_size=8),
)


@pytest.fixture
def eight_devices(monkeypatch):
    """The tests' eight CPU devices in place of the topology's, so that its step compiles here."""
    monkeypatch.setattr(planning, "topology_devices", lambda _: jax.devices())
    return parse_topology("v5e:2x4")


@pytest.mark.parametrize("encoders", [(), ("crop",), ("align",), ("crop", "align", "overlay", "loc")])
def test_a_batch_has_the_loaders_names_shapes_and_types_without_any_data(encoders):
    config = dataclasses.replace(CONFIG, regions=dataclasses.replace(CONFIG.regions, encoders=encoders))
    task = load_run_data(config, tokenizer=None)
    loader = training_iterator(
        task.train, task.preprocessor, families=config.data.families, batch_size=8, seed=0, data=config.data
    )
    real = {name: (array.shape, jax.dtypes.canonicalize_dtype(array.dtype)) for name, array in next(loader).items()}
    loader.close()
    made = abstract_batch(config, model_size(config.model))
    assert {name: (array.shape, array.dtype) for name, array in made.items()} == real


def test_a_plan_adds_up_and_says_everything_as_json(eight_devices):
    config = dataclasses.replace(CONFIG, mesh=dataclasses.replace(CONFIG.mesh, data=1, fsdp=8))
    plan = make_plan(config, eight_devices, vocab=640, examples=80)
    made = json.loads(json.dumps(as_json(plan)))
    kinds = {name: value for name, value in made["memory"].items() if name not in ("total", "limit", "compiled")}
    assert sum(kinds.values()) == made["memory"]["total"]
    assert made["fits"]
    # Two moments, a counter or two, and the step's number.
    assert made["memory"]["optimizer"] == pytest.approx(2 * made["memory"]["parameters"], rel=0.01)
    assert made["memory"]["gradients"] == made["memory"]["parameters"]
    assert made["memory"]["activations"] > 0
    assert made["steps"] == 30
    assert made["hours"] == pytest.approx(30 * made["seconds"]["exposed"] / 3600)
    assert {c["kind"] for c in made["collectives"]} >= {"all-gather"}
    assert made["config"]["train"]["batch_size"] == 8
    assert made["hardware_flops"] > made["model_flops"] > 0
    text = as_text(plan)
    for said in ("fits", "all-gather", "examples a second", "30 steps", "assumed:"):
        assert said in text


def test_what_does_not_fit_is_a_result(eight_devices):
    config = dataclasses.replace(CONFIG, model=ModelConfig("paligemma2-28b-224"))
    plan = make_plan(config, eight_devices, examples=80)
    assert not plan.fits
    assert plan.hours is None
    assert plan.memory.total > 27e9 * 3 * 4  # parameters and two moments, in float32
    assert "does not fit, needs at least" in as_text(plan)
    assert as_json(plan)["seconds"] is None


def test_a_given_budget_takes_the_place_of_the_chips_memory(eight_devices):
    config = dataclasses.replace(CONFIG, model=ModelConfig("paligemma2-28b-224"))
    assert make_plan(config, eight_devices, memory=24, examples=80).limit == 24
    assert make_plan(config, eight_devices, examples=80).limit == CHIPS["v5e"].usable


def test_a_quick_plan_says_that_its_memory_is_an_upper_bound(eight_devices, monkeypatch):
    before, seen = jax.config.jax_exec_time_optimization_effort, []
    compile_as_ever = jax.stages.Lowered.compile

    def watched(self, **options):
        seen.append(jax.config.jax_exec_time_optimization_effort)
        return compile_as_ever(self, **options)

    monkeypatch.setattr(jax.stages.Lowered, "compile", watched)
    quick = make_plan(CONFIG, eight_devices, vocab=640, examples=80, quick=True)
    plain = make_plan(CONFIG, eight_devices, vocab=640, examples=80)
    assert seen == [-1.0, before]
    assert jax.config.jax_exec_time_optimization_effort == before
    assert (as_json(quick)["quick"], as_json(plain)["quick"]) == (True, False)
    assert "upper bound" in as_text(quick)
    assert "upper bound" not in as_text(plain)


def test_a_batch_that_the_mesh_cannot_share_is_named(eight_devices):
    config = dataclasses.replace(CONFIG, train=TrainConfig(duration="1 steps", batch_size=12))
    with pytest.raises(ConfigError, match="12 examples at a time cannot be shared by 8 parts"):
        make_plan(config, eight_devices)


def test_cudnn_without_its_library_is_refused_in_one_line(eight_devices, monkeypatch):
    monkeypatch.setattr(cudnn_of_jax, "cuda_versions", None)
    model = dataclasses.replace(CONFIG.model, attention="cudnn", compute_dtype="bfloat16")
    with pytest.raises(ConfigError, match="'cudnn' is compiled ahead of time only where") as refused:
        make_plan(dataclasses.replace(CONFIG, model=model), parse_topology("h100:8"), vocab=640, examples=80)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "devices", "island"),
    [
        ("v5e:4x4", 16, 16),
        ("v5p:2x2x2", 8, 8),
        ("v5p:4x4x8", 128, 128),
        ("v5e:16x16*2", 512, 256),
        ("h100:1", 1, 1),
        ("h100:64", 64, 8),
    ],
)
def test_topologies_are_read_as_they_are_rented(text, devices, island):
    topology = parse_topology(text)
    assert (topology.devices, topology.island) == (devices, island)


@pytest.mark.parametrize(
    "text",
    [
        "v5e",
        "v9:2x2",
        "v5e:2x2x2",
        "v5p:4x4",
        "h100:12",
        "h100:0",
        "h100:8*2",
        "v5e:2x2*0",
        "v5e:3x5",
        "v5e:32x32",
        "v5p:1x1x1",
        "v5p:8x4x4",
    ],
)
def test_a_topology_that_is_none_is_refused_in_one_line(text):
    with pytest.raises(ConfigError, match="--topology") as error:
        parse_topology(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("topology", "line"),
    [
        ("v5e:2x2", f'pip install "jax\\[tpu\\]=={jax.__version__}"'),
        ("h100:8", f"pip install --no-deps jax-cuda12-plugin=={jax.__version__} jax-cuda12-pjrt=={jax.__version__}"),
    ],
)
def test_a_missing_compiler_says_how_to_install_it(monkeypatch, topology, line):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=line):
        require_compiler(parse_topology(topology))


def test_xlas_refusals_are_told_from_its_errors():
    text = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (27.41G) exceeds"
    )
    assert out_of_memory(text) == int(27.41 * 2**30)
    assert out_of_memory("INVALID_ARGUMENT: something else") is None


def test_hours_need_the_length_of_an_epoch_and_say_so():
    absent = dataclasses.replace(CONFIG, data=DataConfig(source="slake", root="nowhere"))
    assert run_length(absent, None)[0] is None
    assert "--examples" in run_length(absent, None)[1]
    assert run_length(absent, 800)[0] == 300
    assert run_length(CONFIG, None)[0]


def test_the_estimate_is_the_longest_resource_and_its_communication():
    chip = CHIPS["v5e"]
    moved = [Collective("all-gather", False, 1, 100e9), Collective("all-reduce", True, 1, 3.125e9)]
    estimate = roofline(chip, flops=197e12 * 0.65, hbm=819e9 * 0.4, collectives=moved)
    assert (estimate.compute, estimate.hbm, estimate.fabric) == pytest.approx((1, 0.5, 1))
    assert estimate.exposed == pytest.approx(1 + 1 + 1 / 0.7)
    assert estimate.hidden == estimate.network
    assert estimate.bound == "network"


def test_memory_fits_up_to_its_limit():
    assert Memory(GIB, GIB).fits(2)
    assert not Memory(GIB, GIB, temporaries=1).fits(2)


def command(tmp_path, config: str, *options: str) -> list[str]:
    file = tmp_path / "run.py"
    file.write_text(f"from rllava_jax.config import *\nconfig = {config}\n")
    return ["--config", str(file), "--workdir", str(tmp_path / "run"), *options]


@pytest.mark.parametrize(
    ("config", "options", "said"),
    [
        ("Config()", ["--mode", "compile"], "add --topology"),
        ("Config()", ["--topology", "v5e:2x2"], "--topology v5e:2x2"),
        ("Config()", ["--quick"], "--quick: goes with --mode compile"),
        (
            "Config()",
            ["--mode", "compile", "--topology", "h100:8", "--quick"],
            "--quick: is for TPUs",
        ),
        ("Config()", ["--mode", "compile", "--topology", "v5e:2x2", "--memory", "-1"], "--memory"),
        ("Config()", ["--mode", "compile", "--topology", "v5e:2x2", "--workdir", "/dev/null/x"], "cannot be made"),
        ("Config(model=ModelConfig('checkpoint'))", ["--mode", "compile", "--topology", "v5e:2x2"], "name the size"),
    ],
)
def test_the_command_line_says_what_is_missing(tmp_path, capsys, config, options, said):
    assert main(command(tmp_path, config, *options)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_real_step_with_the_flash_kernel_compiles_for_tpus_that_are_not_here(tmp_path):
    assert (_LIBTPU / "libtpu").is_dir(), f"{_LIBTPU}: no libtpu; run `make test`, or name its folder in RLLAVA_LIBTPU"
    config = """Config(
        model=ModelConfig("custom", {"vision.width": 128, "vision.depth": 2, "vision.mlp": 256, "vision.heads": 2,
            "vision.image_size": 28, "vision.patch": 14, "decoder.width": 128, "decoder.depth": 2, "decoder.mlp": 256,
            "decoder.heads": 2, "decoder.kv_heads": 1, "decoder.head_dim": 64, "decoder.query_scale": 0.125,
            "decoder.post_norms": 0, "decoder.attention_cap": 0, "decoder.rope_base": 10000}, vocab=512,
            attention="pallas"),
        regions=RegionConfig(encoders=()), data=DataConfig(source="slake"), mesh=MeshConfig(fsdp=4, data=1),
        train=TrainConfig(duration="10 steps", batch_size=8))"""
    arguments = command(tmp_path, config, "--mode", "compile", "--topology", "v5e:2x2")
    environment = os.environ | {"PYTHONPATH": f"{_ROOT}{os.pathsep}{_LIBTPU}", "XLA_FLAGS": "", "JAX_PLATFORMS": ""}
    done = subprocess.run(
        [sys.executable, "-m", "rllava_jax.main", *arguments],
        cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "fits" in done.stdout
    made = json.loads((tmp_path / "run" / "compile" / "v5e_2x2.json").read_text())
    assert made["chip"] == "TPU v5e"
    assert made["config"]["model"]["compute_dtype"] == "bfloat16"
    assert made["memory"]["compiled"]
    assert made["steps"] == 10
    assert {c["kind"] for c in made["collectives"]} & {"all-gather", "collective-permute"}
    assert importlib.util.find_spec("libtpu") is None or "libtpu" not in sys.modules

"""The settings of a mix of sources: read, overridden, recorded, and refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_files import error_line, write

from rllava_jax.config.loading import differences, from_json, load_config, to_json

MIX = """
config = Config(data=DataConfig(mix={
    "slake": MixPart(source="slake", root="slake", policy=PolicyConfig()),
    "drawn": MixPart(anneal=((0.8, 0), (1, 0.5))),
}))
"""


def test_the_parts_of_a_mix_are_read_overridden_and_recorded(tmp_path: Path) -> None:
    changes = ["slake.weight=2", "slake.policy.shown=0.5", "slake.families={vqa: 1}", "drawn.anneal=[[0, 1], [1, 0]]"]
    config = load_config(write(tmp_path, MIX), [f"--config.data.mix.{change}" for change in changes])
    slake, drawn = config.data.mix.values()
    assert (slake.weight, slake.families, drawn.anneal) == (2.0, {"vqa": 1.0}, ((0.0, 1.0), (1.0, 0.0)))
    assert slake.policy is not None
    assert slake.policy.shown == 0.5
    assert drawn.policy is None
    assert from_json(to_json(config)) == config
    assert differences(to_json(load_config(write(tmp_path, MIX))), to_json(config)) == [
        "data.mix.slake.families",
        "data.mix.slake.weight",
        "data.mix.slake.policy.shown",
        "data.mix.drawn.anneal",
        "data.mix.slake.families.vqa",
    ]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("mix.slak.weight=1", "unknown key 'slak'; did you mean 'slake'?"),
        ("mix.slake.wieght=1", "unknown key 'wieght'; did you mean 'weight'?"),
        ("mix.drawn.policy.shown=0", "there is no PolicyConfig here"),
        ("mix=1", "a mapping of sections; set a field of one of them (slake, drawn)"),
        ("mix.slake=1", "'slake' is a section"),
        ("mix.drawn.anneal=[[1]]", "is not a tuple of a tuple of float and float"),
        ("mix.drawn.anneal=[[1, 2], [0.5, 1]]", "in the order of the run"),
        ("mix.drawn.anneal=[[2, 2]]", "a share between 0 and 1"),
        ("mix.slake.root=", "slake needs the folder of its published files: --config.data.mix.slake.root=DIR"),
        ("mix.slake.weight=-1", "data.mix.slake.weight: -1.0"),
        ("mix.drawn.weight=2", "data.mix.drawn.weight: 2.0 is not possible; anneal takes its place"),
        ("mix.slake.policy.wrong=2", "data.mix.slake.policy.wrong: 2.0"),
        ("mix.slake.families={vqa: 0}", "data.mix.slake.families: {'vqa': 0.0}"),
        ("mix.slake.source=slak", "did you mean 'slake'?"),
    ],
)
def test_what_is_wrong_in_a_mix_is_named(tmp_path: Path, override: str, expected: str) -> None:
    assert expected in error_line(write(tmp_path, MIX), f"--config.data.{override}")


def test_a_mix_of_no_weight_and_a_temperature_without_a_mix_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, MIX)
    temperature = "--config.data.mix_temperature=2"
    none = ["--config.data.mix.slake.weight=0", "--config.data.mix.drawn.anneal="]
    assert "data.mix" in error_line(path, *none, "--config.data.mix.drawn.weight=0")
    assert "data.mix_temperature: 2.0" in error_line(write(tmp_path, "config = Config()"), temperature)

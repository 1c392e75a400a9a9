"""The settings of a mix of sources: read, overridden, recorded, and refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_files import assert_refused, write

from rllava_jax.config.loading import load
from rllava_jax.config.stored import changed, from_json, to_json

MIX = """
config = Config(data=DataConfig(mix={
    "slake": MixPart(source="slake", root="slake", policy=PolicyConfig()),
    "drawn": MixPart(anneal=((0.8, 0), (1, 0.5))),
}))
"""


def test_the_parts_of_a_mix_are_read_overridden_and_recorded(tmp_path: Path) -> None:
    changes = ["slake.weight=2", "slake.policy.shown=0.5", "slake.families={vqa: 1}", "drawn.anneal=[[0, 1], [1, 0]]"]
    config = load(write(tmp_path, MIX), [f"--config.data.mix.{change}" for change in changes])
    slake, drawn = config.data.mix.values()
    assert (slake.weight, slake.families, drawn.anneal) == (2.0, {"vqa": 1.0}, ((0.0, 1.0), (1.0, 0.0)))
    assert slake.policy is not None
    assert slake.policy.shown == 0.5
    assert drawn.policy is None
    assert from_json(to_json(config)) == config
    assert changed(to_json(load(write(tmp_path, MIX))), to_json(config)) == [
        "data.mix.slake.families",
        "data.mix.slake.weight",
        "data.mix.slake.policy.shown",
        "data.mix.drawn.anneal",
        "data.mix.slake.families.vqa",
    ]


@pytest.mark.parametrize(
    ("override", "code", "named"),
    [
        ("mix.slak.weight=1", "config.unknown-field", "'slake'"),
        ("mix.slake.wieght=1", "config.unknown-field", "'weight'"),
        ("mix.drawn.policy.shown=0", "config.invalid-override", "PolicyConfig"),
        ("mix=1", "config.invalid-override", "slake, drawn"),
        ("mix.slake=1", "config.invalid-override", "'slake'"),
        ("mix.drawn.anneal=[[1]]", "config.invalid-value", "mix.drawn.anneal"),
        ("mix.drawn.anneal=[[1, 2], [0.5, 1]]", "config.invalid-value", "in the order of the run"),
        ("mix.drawn.anneal=[[2, 2]]", "config.invalid-value", "less than or equal to 1"),
        ("mix.slake.root=", "config.conflict", "--config.data.mix.slake.root=DIR"),
        ("mix.slake.weight=-1", "config.invalid-value", "greater than or equal to 0"),
        ("mix.drawn.weight=2", "config.conflict", "data.mix.drawn.weight: 2.0"),
        ("mix.slake.policy.wrong=2", "config.invalid-value", "data.mix.slake.policy.wrong"),
        ("mix.slake.families={vqa: 0}", "config.invalid-value", "data.mix.slake.families"),
        ("mix.slake.source=slak", "config.invalid-value", "'slake'"),
    ],
)
def test_what_is_wrong_in_a_mix_is_named(tmp_path: Path, override: str, code: str, named: str) -> None:
    assert_refused(write(tmp_path, MIX), code, named, overrides=(f"--config.data.{override}",))


def test_a_mix_of_no_weight_and_a_temperature_without_a_mix_are_refused(tmp_path: Path) -> None:
    none = ("slake.weight=0", "drawn.anneal=", "drawn.weight=0")
    overrides = tuple(f"--config.data.mix.{change}" for change in none)
    assert_refused(write(tmp_path, MIX), "config.conflict", "data.mix: ", overrides=overrides)
    plain, override = write(tmp_path, "config = Config()"), "--config.data.mix_temperature=2"
    assert_refused(plain, "config.conflict", "data.mix_temperature: 2.0", overrides=(override,))

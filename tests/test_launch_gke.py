"""GKE: launch/gke.sh writes a JobSet that Kubernetes would take, and that restarts by exit code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from launch_world import ODD, ROOT, STAND_INS, World

SCRIPT = ROOT / "launch" / "gke.sh"
RUN = ["run", "--name=med", "--image=registry/rllava:1", "--tpu=v5e", "--topology=4x4"]
SCHEMA = json.loads((STAND_INS / "jobset_schema.json").read_text())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    result = World(tmp_path)
    yield result
    result.close()


def manifest(world: World, *options: str, arguments: list[str] | None = None) -> dict[str, Any]:
    """What was applied."""
    done = world.run(SCRIPT, *RUN, *options, "configs/demo.py", "gs://bucket/run", *(arguments or []))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load((world.folder / "manifest.yaml").read_text())
    return found


def check(value: Any, kind: str, where: str) -> None:
    """Fails unless `value` is of a type of the schema, field by field; a field that the type lacks fails too."""
    if found := re.fullmatch(r"list\[(.+)\]", kind):
        assert isinstance(value, list), where
        for index, item in enumerate(value):
            check(item, found[1], f"{where}[{index}]")
    elif kind == "dict[str, str]":
        assert isinstance(value, dict), where
        quantities = where.endswith((".requests", ".limits"))  # Kubernetes takes these as numbers or strings
        assert all(isinstance(item, (str, int) if quantities else str) for item in value.values()), where
    elif found := re.fullmatch(r"enum\((.+)\)", kind):
        assert value in found[1].split(","), where
    elif kind in ("str", "int", "bool"):
        assert type(value).__name__ == kind, where
    elif kind != "object":
        fields = SCHEMA[kind]["fields"]
        assert set(SCHEMA[kind]["required"]) <= set(value), where
        for name, item in value.items():
            assert name in fields, f"{where}: {kind} has no field {name}"
            check(item, fields[name], f"{where}.{name}")


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--slices=4", "--spot", "--service-account=rllava", "--data=gs://bucket/slake/en", "--namespace=vqa"),
        ("--data=gs://bucket",),
    ],
)
def test_the_manifest_has_only_fields_that_jobset_and_kubernetes_know(world: World, options: tuple[str, ...]) -> None:
    found = manifest(world, *options, arguments=ODD)
    check(found, "JobSet", "manifest")
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")


def test_the_schema_check_sees_mistakes(world: World) -> None:
    found = manifest(world)
    pod = found["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    pod["containers"][0]["argument"] = []
    with pytest.raises(AssertionError, match="V1Container has no field argument"):
        check(found, "JobSet", "manifest")
    del pod["containers"][0]["argument"]
    pod["terminationGracePeriodSeconds"] = "300"
    with pytest.raises(AssertionError, match="terminationGracePeriodSeconds"):
        check(found, "JobSet", "manifest")


def test_errors_stop_the_jobset_and_interruptions_restart_it(world: World) -> None:
    spec = manifest(world, "--max-restarts=7")["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    # Any pod's failure fails its job; where the pod failure policy did it, the JobSet fails, else it restarts.
    assert job["backoffLimit"] == 0
    assert spec["failurePolicy"]["maxRestarts"] == 7
    assert spec["failurePolicy"]["rules"] == [
        {"name": "stop", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    ]
    preempted, ended = job["podFailurePolicy"]["rules"]
    assert preempted == {"action": "Count", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert (ended["action"], ended["onExitCodes"]["operator"]) == ("FailJob", "NotIn")
    again = ended["onExitCodes"]["values"]
    assert {75, 76, 134, 137, 143} <= set(again)
    assert not {0, 1, 2, 3} & set(again)
    assert again == sorted(set(again))
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # Kubernetes demands it of a pod failure policy


def test_two_slices_are_two_jobs_whose_hosts_number_themselves(world: World) -> None:
    spec = manifest(world, "--slices=2", arguments=ODD)["spec"]
    (replicated,) = spec["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert (replicated["replicas"], job["parallelism"], job["completions"], job["completionMode"]) == (
        2,
        4,
        4,
        "Indexed",
    )
    container = job["template"]["spec"]["containers"][0]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert variables == {
        "RLLAVA_COORDINATOR": "med-slice-0-0.med:8476",
        "RLLAVA_NUM_PROCESSES": "8",
        "HOSTS": "4",
        "SLICE": None,  # from the annotation that JobSet writes
    }
    # The pod of host 3 of slice 1, as Kubernetes would start it from the image's folder.
    arguments = [argument.replace("$$(", "$(") for argument in container["args"]]
    pod = {**{k: v for k, v in variables.items() if v}, "SLICE": "1", "JOB_COMPLETION_INDEX": "3"}
    done = world.run(ROOT / container["command"][0], *arguments, **pod)
    assert done.returncode == 0, done.stderr
    (start,) = world.starts()
    assert start["arguments"] == ["--config", "configs/demo.py", "--workdir", "gs://bucket/run", *ODD]
    assert start["environment"]["RLLAVA_PROCESS_ID"] == "7"


def test_kubernetes_replaces_nothing_in_arguments(world: World) -> None:
    (prompt,) = [word for word in ODD if "$(" in word]
    spec = manifest(world, arguments=[prompt])["spec"]
    (given,) = spec["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]["args"][2:]
    assert not re.search(r"(?<!\$)\$\(", given)
    assert given.replace("$$(", "$(") == prompt


@pytest.mark.parametrize(
    ("tpu", "topology", "options", "hosts", "chips"),
    [
        ("v5e", "1x1", (), 1, 1),
        ("v5e", "2x2", (), 1, 4),
        ("v5e", "2x4", (), 1, 8),
        ("v5e", "2x4", ("--chips-per-host=4",), 2, 4),
        ("v5e", "16x16", (), 64, 4),
        ("v6e", "4x8", (), 8, 4),
        ("v4", "2x2x1", (), 1, 4),
        ("v5p", "4x4x8", (), 32, 4),
    ],
)
def test_hosts_follow_from_the_topology(
    world: World, tpu: str, topology: str, options: tuple[str, ...], hosts: int, chips: int
) -> None:
    spec = manifest(world, f"--tpu={tpu}", f"--topology={topology}", *options)["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    assert job["parallelism"] == hosts
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": chips}
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == topology


def test_data_comes_from_a_mounted_bucket(world: World) -> None:
    spec = manifest(world, "--data=gs://bucket/slake/en/")["spec"]
    template = spec["replicatedJobs"][0]["template"]["spec"]["template"]
    assert template["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    assert template["spec"]["volumes"][0]["csi"]["volumeAttributes"] == {
        "bucketName": "bucket",
        "mountOptions": "implicit-dirs,only-dir=slake/en",
    }
    assert template["spec"]["containers"][0]["args"][-1] == "--config.data.root=/data"


def test_from_image_to_deletion(world: World) -> None:
    image = world.run(SCRIPT, "image", "--image=registry/rllava:1")
    assert image.returncode == 0, image.stderr
    assert [call[1] for call in world.calls("docker")] == ["build", "push"]
    (revision,) = [word for word in world.calls("docker")[0] if word.startswith("--build-arg=REVISION=")]
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", revision.rsplit("=", 1)[1])
    manifest(world)
    again = world.run(SCRIPT, *RUN, "configs/demo.py", "gs://bucket/run")
    assert again.returncode == 2
    assert "goes on already" in again.stderr
    assert world.run(SCRIPT, "status", "--name=med").returncode == 0
    assert "step 1" in world.run(SCRIPT, "logs", "--name=med", "--follow").stdout
    assert world.run(SCRIPT, "delete", "--name=med").returncode == 0
    assert world.state("kubectl")["jobsets"] == {}
    assert world.run(SCRIPT, "status", "--name=med").returncode == 1


@pytest.mark.parametrize("ended", ["Completed", "Failed"])
def test_the_same_line_replaces_a_jobset_that_has_ended(world: World, ended: str) -> None:
    first = manifest(world)
    conditions = [{"type": "StartupPolicyCompleted", "status": "True"}, {"type": ended, "status": "True"}]
    world.tell("kubectl", jobsets={"med": {"status": {"conditions": conditions}}})
    assert manifest(world) == first
    assert [call[1] for call in world.calls("kubectl")] == ["get", "apply", "get", "delete", "apply"]


def test_a_dry_run_calls_nothing_and_prints_a_script_that_does_what_a_run_does(world: World) -> None:
    line = [*RUN[1:], "--slices=2", "configs/demo.py", "gs://bucket/run", *ODD]
    printed = world.run(SCRIPT, "run", "--dry-run", *line)
    assert printed.returncode == 0, printed.stderr
    assert world.calls() == []
    assert world.run("bash", "-c", printed.stdout).returncode == 0
    pasted = (world.folder / "manifest.yaml").read_text()
    by_hand = world.calls()
    world.tell("kubectl", jobsets={})
    assert world.run(SCRIPT, "run", *line).returncode == 0
    assert (world.folder / "manifest.yaml").read_text() == pasted
    assert world.calls() == by_hand * 2


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--topology=4"], "--topology 4: write chips a side"),
        (["--topology=2x2x2"], "v5e has two dimensions"),
        (["--topology=2x2", "--slices=2"], "GKE joins only slices of several hosts"),
        (["--topology=4x4", "--chips-per-host=3"], "does not divide"),
        (["--topology=4x4", "--chips-per-host=-4"], "does not divide"),
        (["--max-restarts=-1"], "--max-restarts -1: write a number from 0"),
        (["--grace=-1"], "--grace -1: write a number from 0"),
        (["--name=Med_1"], "--name Med_1: write at most 40 lower-case"),
        (["--data=/slake"], "--data /slake: write gs://"),
        (["--tpu=v9"], "invalid choice: 'v9'"),
    ],
)
def test_a_wrong_line_applies_nothing(world: World, options: list[str], complaint: str) -> None:
    done = world.run(SCRIPT, *RUN, *options, "configs/demo.py", "gs://bucket/run")
    assert done.returncode == 2
    assert complaint in done.stderr
    done = world.run(SCRIPT, *RUN, "configs/demo.py", "runs/x")
    assert done.returncode == 2
    assert "give a gs:// workdir" in done.stderr
    assert world.calls() == []


def test_compile_mode_runs_here_and_applies_nothing(world: World) -> None:
    done = world.run(SCRIPT, *RUN, "configs/demo.py", "runs/x", "--mode=compile", "--topology=v5e:4x4")
    assert done.returncode == 0, done.stderr
    assert len(world.starts()) == 1
    assert world.calls("kubectl") == []

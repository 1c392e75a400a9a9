"""TPU VMs: launch/tpu_vm.sh through the whole life of a queued resource, its workers being folders of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch_world import ODD, ROOT, World

SCRIPT = ROOT / "launch" / "tpu_vm.sh"
WHERE = ["--name=med", "--zone=us-west4-a"]
LINE = ["--config", "configs/demo.py", "--workdir", "gs://bucket/run"]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    result = World(tmp_path)
    yield result
    result.close()


def options(world: World, *more: str) -> list[str]:
    return ["run", *WHERE, "--type=v5litepod-16", "--poll=0.05", f"--logs={world.folder}/logs", *more]


def launch(world: World, *more: str, arguments: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    return world.run(SCRIPT, *options(world, *more), "configs/demo.py", "gs://bucket/run", *(arguments or []))


def actions(world: World) -> list[str]:
    """gcloud's calls that change something, in order."""
    found = []
    for call in world.calls("gcloud"):
        verb = call[4]
        if verb in ("create", "delete", "scp"):
            found.append(verb)
        elif verb == "ssh":
            command = next(word for word in call if word.startswith("--command="))
            found += [step for step in ("setup", "start", "stop") if f"tpu_vm_worker.sh {step}" in command]
    return found


def test_a_run_from_nothing_to_deletion(world: World) -> None:
    world.tell("gcloud", waiting=["CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING"])
    done = launch(world, "--spot", "--delete-after", "--data=gs://bucket/slake", arguments=ODD)
    assert done.returncode == 0, done.stderr
    assert actions(world) == ["create", "scp", "setup", "start", "delete"]
    assert sorted(start["host"] for start in world.starts()) == ["med-0", "med-1"]
    for start in world.starts():
        assert start["arguments"] == [*LINE, *ODD, "--config.data.root=/var/tmp/rllava_data"]
        assert start["cwd"].endswith("/rllava_jax")
        assert "RLLAVA_COORDINATOR" not in start["environment"]  # on TPU VMs JAX finds the other hosts by itself
        assert len(start["environment"]["RLLAVA_REVISION"].removesuffix("+changes")) == 40
    installed = [call for call in world.calls("program") if "install" in call]
    assert [call[-2:] for call in installed] == [["-e", ".[tpu,gcs]"]] * 2
    assert "PROVISIONING" in done.stderr
    assert "med-0 starts" in done.stdout
    for index in range(2):
        assert "starts" in (world.folder / "logs" / f"med-worker-{index}.log").read_text()
    assert world.state("gcloud")["resources"] == {}


def test_a_preempted_tpu_is_made_anew_and_runs_the_same_line(world: World) -> None:
    world.tell("program", exits={"med-0": ["preempt", 0], "med-1": ["wait", 0]})
    done = launch(world, "--spot", "--delete-after", arguments=ODD)
    assert done.returncode == 0, done.stderr
    assert "preempted" in done.stderr
    assert actions(world) == ["create", "scp", "setup", "start", "delete", "create", "scp", "setup", "start", "delete"]
    first, second = world.arguments()[:2], world.arguments()[2:]
    assert first == second == [[*LINE, *ODD]] * 2


def test_a_node_that_is_taken_back_before_its_request_says_so_counts_as_preempted(world: World) -> None:
    world.tell("program", exits={"med-0": ["host_lost", 0], "med-1": ["wait", 0]})
    done = launch(world, "--spot")
    assert done.returncode == 0, done.stderr
    assert actions(world).count("create") == 2


def test_an_interrupted_program_starts_again_on_the_same_tpu(world: World) -> None:
    world.tell("program", exits={"med-0": [75, 137, 0], "med-1": [75, 76, 0]})
    done = launch(world)
    assert done.returncode == 0, done.stderr
    assert actions(world) == ["create", "scp", "setup", "start", "start", "start"]
    assert "med goes on costing: launch/tpu_vm.sh delete --name med --zone=us-west4-a" in done.stderr


@pytest.mark.parametrize(("codes", "code"), [((2, 76), 2), ((76, 3), 3)])
def test_an_error_on_any_worker_ends_the_run(world: World, codes: tuple[int, int], code: int) -> None:
    world.tell("program", exits={"med-0": [codes[0]], "med-1": [codes[1]]})
    done = launch(world, "--delete-after")
    assert done.returncode == code
    assert actions(world) == ["create", "scp", "setup", "start", "delete"]
    assert len(list((world.folder / "logs").glob("med-worker-*.log"))) == 2  # fetched before the deletion


def test_a_worker_that_does_not_notice_the_end_of_another_is_stopped(world: World) -> None:
    world.tell("program", exits={"med-0": [2], "med-1": ["wait"]})
    done = launch(world, "--grace=0.2")
    assert done.returncode == 2
    assert actions(world)[-1] == "stop"
    assert world.state("program")["signals"] == [["med-1", 1]]


def test_restarts_have_a_limit(world: World) -> None:
    world.tell("program", exits={"med-0": [75] * 9, "med-1": [75] * 9})
    done = launch(world, "--max-restarts=2")
    assert done.returncode == 75
    assert actions(world).count("start") == 3


def test_an_active_tpu_is_used_and_a_suspended_one_replaced(world: World) -> None:
    assert launch(world).returncode == 0
    assert launch(world).returncode == 0
    assert actions(world).count("create") == 1
    state = world.state("gcloud")
    state["resources"]["med"] |= {"state": "SUSPENDED", "nodes": {"med": "PREEMPTED"}}
    world.tell("gcloud", **state)
    assert launch(world).returncode == 0
    assert actions(world).count("create") == 2


def test_the_same_line_watches_a_run_that_goes_on_and_another_line_does_not_disturb_it(world: World) -> None:
    world.tell("program", exits={"*": ["wait", "wait"]})
    watching = world.start(SCRIPT, *options(world), "configs/demo.py", "gs://bucket/run")
    end = time.monotonic() + 30
    while len(world.starts()) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    watching.send_signal(signal.SIGINT)  # the laptop is closed
    _, err = watching.communicate(timeout=20)
    assert watching.returncode == 130
    assert "it goes on, and costs" in err

    other = launch(world, arguments=["--config.seed=1"])
    assert other.returncode == 2
    assert "another run goes on on med; stop it first" in other.stderr

    again = world.start(SCRIPT, *options(world), "configs/demo.py", "gs://bucket/run")
    world.tell("program", exits={"*": [0, 0]})
    status = world.run(SCRIPT, "status", *WHERE)
    assert status.stdout.count("running") == 2
    stopped = world.run(SCRIPT, "stop", *WHERE)
    assert stopped.returncode == 0, stopped.stderr
    _, err = again.communicate(timeout=30)
    assert again.returncode == 0, err  # stopped by hand is interrupted: it was started again, and finished
    assert len(world.starts()) == 4
    assert actions(world).count("create") == 1


def test_slices_are_numbered_by_the_service_and_all_run_the_line(world: World) -> None:
    done = launch(world, "--slices=2")
    assert done.returncode == 0, done.stderr
    (create,) = [call for call in world.calls("gcloud") if "create" in call]
    assert "--node-count=2" in create
    assert "--node-prefix=med" in create
    assert sorted(start["host"] for start in world.starts()) == ["med-0-0", "med-0-1", "med-1-0", "med-1-1"]


def test_a_worker_that_cannot_be_reached_for_a_moment_is_asked_again(world: World) -> None:
    world.tell("program", exits={"med-0": ["wait"], "med-1": ["wait"]})
    process = world.start(SCRIPT, *options(world), "configs/demo.py", "gs://bucket/run")
    end = time.monotonic() + 30
    while len(world.starts()) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    world.tell("gcloud", unreachable=4)
    while world.state("gcloud")["unreachable"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    world.run(SCRIPT, "stop", *WHERE)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, out + err


def test_a_failed_request_is_reported_and_not_repeated(world: World) -> None:
    world.tell("gcloud", waiting=["ACCEPTED", "FAILED"])
    done = launch(world)
    assert done.returncode == 2
    assert "queued-resources describe med --zone=us-west4-a says why" in done.stderr
    assert actions(world) == ["create"]


def test_what_gcloud_refuses_ends_the_run_with_its_words(world: World) -> None:
    world.tell(
        "gcloud", create_fails="RESOURCE_EXHAUSTED: Quota limit 'TPUV5sLitepodPerProjectPerZone' has been exceeded"
    )
    done = launch(world)
    assert done.returncode == 1
    assert "RESOURCE_EXHAUSTED" in done.stderr
    assert actions(world) == ["create"]


def test_a_dry_run_calls_nothing_and_prints_a_script_that_does_what_a_run_does(world: World) -> None:
    line = [*options(world, "--spot", "--setup=mkdir -p 'a b'"), "configs/demo.py", "gs://bucket/run", *ODD]
    assert world.run(SCRIPT, *line).returncode == 0
    before = len(world.calls())

    printed = world.run(SCRIPT, line[0], "--dry-run", *line[1:])
    assert printed.returncode == 0, printed.stderr
    assert len(world.calls()) == before
    other = World(world.folder / "other")
    other.folder.mkdir()
    by_hand = other.run("bash", "-c", printed.stdout)
    assert by_hand.returncode == 0, by_hand.stderr
    # The pasted lines leave the programs running on their own; they may write down a moment later that they started.
    until = time.monotonic() + 30
    while len(other.starts()) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    assert [start["arguments"] for start in other.starts()] == [[*LINE, *ODD]] * 2
    changing = (" create ", " scp ", "worker.sh setup ", "worker.sh start ")
    run, pasted = (
        [call for call in one.calls("gcloud") if any(word in " ".join(call) for word in changing)]
        for one in (world, other)
    )
    assert run == pasted
    assert len(run) == 4


def test_a_second_copy_of_the_program_is_never_started(world: World) -> None:
    home = world.folder / "home"
    (home / "rllava_jax").mkdir(parents=True)
    world.tell("program", exits={"*": ["wait"]})
    worker = ROOT / "launch" / "tpu_vm_worker.sh"
    here = {"HOME": str(home), "RLLAVA_STOP_SECONDS": "10"}
    assert "started" in world.run(worker, "start", "key", "configs/demo.py", "gs://b/r", **here).stdout
    assert "runs already" in world.run(worker, "start", "key", "configs/demo.py", "gs://b/r", **here).stdout
    assert world.run(worker, "start", "other", "configs/demo.py", "gs://b/r", **here).returncode == 2
    assert world.run(worker, "idle", **here).returncode == 2
    end = time.monotonic() + 10
    while not world.starts():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert world.run(worker, "stop", **here).returncode == 0
    assert "key exited:75" in world.run(worker, "status", **here).stdout
    assert world.run(worker, "idle", **here).returncode == 0
    assert len(world.starts()) == 1


def test_a_program_from_before_a_reboot_counts_as_gone(world: World) -> None:
    run = world.folder / "rllava_run"
    run.mkdir()
    for name, text in {"pid": str(os.getpid()), "key": "key", "boot": "another"}.items():
        (run / name).write_text(text)
    status = world.run(ROOT / "launch" / "tpu_vm_worker.sh", "status", HOME=str(world.folder))
    assert status.stdout.endswith(" key gone\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--type=v5litepod-16", "configs/demo.py", "runs/x"], "a TPU VM's own disk is lost with it"),
        (["--type=v5litepod-16", "configs/demo.py", "/nfs/x"], "that --setup mounts"),
        (["--type=v5litepod-16", "configs/none.py", "gs://b/x"], "configs/none.py: no such file"),
        (["--type=v5litepod-16", "--poll=-5", "configs/demo.py", "gs://b/x"], "--poll -5: write a number from 0"),
        (["--type=v5litepod-16", "--max-restarts=-1", "configs/demo.py", "gs://b/x"], "--max-restarts -1: write"),
        (["--type=v9-16", "configs/demo.py", "gs://b/x"], "give --runtime-version"),
        (["--type=v4-8", "--data=/slake", "configs/demo.py", "gs://b/x"], "--data /slake: write gs://"),
        (["--type=v4-8", "--spots", "configs/demo.py", "gs://b/x"], "usage:"),
    ],
)
def test_a_wrong_line_costs_nothing(world: World, arguments: list[str], complaint: str) -> None:
    done = world.run(SCRIPT, "run", *WHERE, *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert world.calls() == []


def test_compile_mode_runs_here_and_rents_nothing(world: World) -> None:
    done = launch(world, arguments=["--mode", "compile", "--topology", "v5e:4x4"])
    assert done.returncode == 0, done.stderr
    assert world.arguments() == [[*LINE, "--mode", "compile", "--topology", "v5e:4x4"]]
    assert world.calls("gcloud") == []

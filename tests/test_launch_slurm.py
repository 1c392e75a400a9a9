"""SLURM: launch/slurm.sh submits, the job decides from its tasks' exit codes what follows."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch_world import ODD, ROOT, World

SCRIPT = ROOT / "launch" / "slurm.sh"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    result = World(tmp_path)
    yield result
    result.close()


def submit(world: World, *arguments: str, options: tuple[str, ...] = ()) -> str:
    """Submits a job of two nodes; its number."""
    logs = f"--logs={world.folder / 'logs'}"
    done = world.run(SCRIPT, "--nodes=2", logs, *options, "configs/demo.py", "/shared/run", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def run_job(world: World, number: str) -> subprocess.CompletedProcess[str]:
    """Runs the batch script once, as SLURM does: from its copy, in --chdir, with the job's variables."""
    state = world.state("slurm")
    job = state["jobs"][number]
    job["state"] = "RUNNING"
    world.tell("slurm", jobs=state["jobs"])
    restarted = {"SLURM_RESTART_COUNT": str(job["restarts"])} if job["restarts"] else {}
    process = subprocess.run(
        ["bash", job["script"], *job["arguments"]],
        cwd=job["flags"]["--chdir"],
        env={
            **world.environment,
            "SLURM_JOB_ID": number,
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_CPUS_PER_TASK": job["flags"]["--cpus-per-task"],
            **restarted,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return process


def queued(world: World, number: str) -> bool:
    return bool(world.state("slurm")["jobs"][number]["state"] == "PENDING")


def test_each_node_runs_one_process_that_knows_its_number_and_all_its_gpus(world: World) -> None:
    number = submit(world, *ODD)
    done = run_job(world, number)
    assert done.returncode == 0, done.stderr
    starts = {start["host"]: start for start in world.starts()}
    assert starts.keys() == {"task-0", "task-1"}
    for index, start in enumerate(starts[host] for host in sorted(starts)):
        assert start["arguments"] == ["--config", "configs/demo.py", "--workdir", "/shared/run", *ODD]
        assert start["environment"] == {
            "RLLAVA_COORDINATOR": f"node1:{61440 + int(number) % 4096}",
            "RLLAVA_NUM_PROCESSES": "2",
            "RLLAVA_PROCESS_ID": str(index),
        }  # and no SLURM_LOCALID, with which JAX would use one GPU of each node
    assert not queued(world, number)


def test_the_time_limit_saves_and_queues_again_until_it_is_done(world: World) -> None:
    world.tell("program", exits={"task-0": ["slow", 0], "task-1": ["wait", 0]})
    number = submit(world, options=("--time=24:00:00",))
    flags = world.state("slurm")["jobs"][number]["flags"]
    assert (flags["--signal"], flags["--time"], flags["--open-mode"]) == ("TERM@300", "24:00:00", "append")
    world.tell("slurm", signal_after=1.0)
    assert run_job(world, number).returncode == 75
    assert sorted(world.state("program")["signals"]) == [["task-0", 1], ["task-1", 1]]  # once: a second would not save
    assert queued(world, number)
    assert run_job(world, number).returncode == 0
    assert len(world.starts()) == 4
    assert not queued(world, number)


@pytest.mark.parametrize(("codes", "code"), [((2, 76), 2), ((76, 3), 3), ((1, 1), 1), ((137, 2), 2)])
def test_an_error_on_any_node_is_not_queued_again_whatever_the_others_say(
    world: World, codes: tuple[int, int], code: int
) -> None:
    world.tell("program", exits={"task-0": [codes[0]], "task-1": [codes[1]]})
    number = submit(world)
    assert run_job(world, number).returncode == code
    assert not queued(world, number)
    assert world.calls("scontrol")[-1][1] == "show"


@pytest.mark.parametrize("codes", [(75, 75), (76, 137), (0, 76), (134, 76)])
def test_interruptions_and_lost_hosts_are_queued_again(world: World, codes: tuple[int, int]) -> None:
    world.tell("program", exits={"task-0": [codes[0]], "task-1": [codes[1]]})
    number = submit(world)
    assert run_job(world, number).returncode == max(codes)
    assert queued(world, number)


def test_a_cancelled_job_does_not_come_back(world: World) -> None:
    world.tell("program", exits={"*": ["wait", "wait"]})
    number = submit(world)
    world.tell("slurm", signal_after=1.0, cancel=True)
    assert run_job(world, number).returncode == 75
    assert world.state("slurm")["jobs"][number]["restarts"] == 0


def test_queueing_again_has_a_limit(world: World) -> None:
    world.tell("program", exits={"*": [75] * 10})
    number = submit(world, options=("--max-restarts=1",))
    run_job(world, number)
    assert queued(world, number)
    done = run_job(world, number)
    assert done.returncode == 75
    assert "--max-restarts 1" in done.stderr
    assert not queued(world, number)


def test_a_dry_run_prints_the_lines_that_a_run_runs(world: World) -> None:
    options = ["--nodes=2", "--partition=gpu", "--account=a", "--qos=q", "--sbatch=--constraint=h100"]
    line = [*options, f"--logs={world.folder}/a folder", "configs/demo.py", "gs://bucket/run", *ODD]
    printed = world.run(SCRIPT, "--dry-run", *line)
    assert printed.returncode == 0
    assert world.calls() == []
    world.run("bash", "-c", printed.stdout)
    by_hand = world.calls()
    world.run(SCRIPT, *line)
    assert by_hand * 2 == world.calls()


def test_relative_folders_are_taken_from_the_repository(world: World) -> None:
    printed = world.run(SCRIPT, "--dry-run", "configs/demo.py", "runs/x").stdout
    words = shlex.split(printed.splitlines()[-1])
    assert words[words.index("configs/demo.py") + 1] == str(ROOT / "runs" / "x")
    assert f"--chdir={ROOT}" in words


def test_compile_mode_runs_here_and_submits_nothing(world: World) -> None:
    done = world.run(SCRIPT, "configs/demo.py", "runs/x", "--mode=compile", "--topology=h100:8")
    assert done.returncode == 0, done.stderr
    arguments = ["--config", "configs/demo.py", "--workdir", "runs/x", "--mode=compile", "--topology=h100:8"]
    assert world.arguments() == [arguments]
    assert world.calls("sbatch") == []


def test_a_wrong_line_submits_nothing(world: World) -> None:
    for line, complaint in [
        (["configs/demo.py"], "usage:"),
        (["--nodes=0", "configs/demo.py", "runs/x"], "--nodes is '0'"),
        (["--gpu=8", "configs/demo.py", "runs/x"], "unknown option --gpu;"),
        (["--nodes"], "--nodes needs a value"),
        (["configs/no.py", "runs/x"], "CONFIG is 'configs/no.py'; there is no such file"),
    ]:
        done = world.run(SCRIPT, *line)
        assert done.returncode == 2
        assert complaint in done.stderr
    assert world.calls() == []

"""Runs on TPUs in GKE: writes a JobSet manifest and applies it; shows its state and logs, builds its image, deletes it.

Started by `launch/gke.sh`; see its --help and docs/launch/GKE.md. Python instead of shell because the manifest is a
tree and its arguments must survive the quoting of YAML and of Kubernetes.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Sequence

from command_runner import (
    DONE,
    MENDABLE,
    REPOSITORY,
    CommandFailed,
    Commands,
    LaunchError,
    add_dry_run,
    add_program,
    command_line,
    revision,
)
from jobset import ACCELERATORS, Workload, manifest, yaml


def hosts(tpu: str, topology: str, chips_per_host: int | None) -> tuple[int, int]:
    """Hosts of a slice and chips of each.

    https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus: four chips a host, or all of a smaller
    slice; v5e and v6e slices of eight come on one host of eight unless the node pool was made of hosts of four.
    """
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", topology):
        raise LaunchError(f"--topology {topology}: write chips a side, e.g. 4x4, or 2x2x2 for v4 and v5p")
    flat = tpu in ("v5e", "v6e")
    if len(topology.split("x")) != (2 if flat else 3):
        raise LaunchError(f"--topology {topology}: {tpu} has {'two' if flat else 'three'} dimensions")
    chips = math.prod(int(side) for side in topology.split("x"))
    each = chips_per_host or (8 if flat and chips == 8 else min(chips, 4))
    if each < 1 or chips % each:
        raise LaunchError(f"--chips-per-host {each}: does not divide the {chips} chips of {topology}")
    return chips // each, each


def workload(options: argparse.Namespace) -> Workload:
    """The options of `run`, checked. Raises LaunchError."""
    count, chips = hosts(options.tpu, options.topology, options.chips_per_host)
    if options.slices < 1:
        raise LaunchError(f"--slices {options.slices}: write a number from 1")
    for name in ("max_restarts", "grace"):
        if getattr(options, name) < 0:
            raise LaunchError(f"--{name.replace('_', '-')} {getattr(options, name)}: write a number from 0")
    if options.slices > 1 and count == 1:
        raise LaunchError(
            f"--slices {options.slices}: GKE joins only slices of several hosts, and {options.topology} has one"
        )
    # JobSet's pods are named NAME-slice-J-K, and Kubernetes allows a name 63 characters.
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", options.name):
        raise LaunchError(f"--name {options.name}: write at most 40 lower-case letters, digits and hyphens")
    if not options.workdir.startswith("gs://"):
        raise LaunchError(f"{options.workdir}: a pod's disk is lost with it; give a gs:// workdir")
    if options.data and not options.data.startswith("gs://"):
        raise LaunchError(f"--data {options.data}: write gs://BUCKET/FOLDER")
    return Workload(
        name=options.name,
        namespace=options.namespace,
        image=options.image,
        accelerator=ACCELERATORS[options.tpu],
        topology=options.topology,
        slices=options.slices,
        hosts=count,
        chips=chips,
        spot=options.spot,
        service_account=options.service_account,
        data=options.data,
        max_restarts=options.max_restarts,
        grace=options.grace,
        arguments=(options.config, options.workdir, *options.arguments),
    )


def run(commands: Commands, options: argparse.Namespace) -> None:
    """Applies the manifest. A JobSet of the name that has ended is replaced; one that goes on is left alone."""
    text = yaml(manifest(workload(options)))
    here = [f"--namespace={options.namespace}"]
    state = _state(commands, options)
    if state == "running":
        raise LaunchError(
            f"{options.name} goes on already; see launch/gke.sh status, logs and delete --name {options.name}"
        )
    if state != "absent":  # its jobs cannot be changed; the run resumes from its workdir
        commands.say(f"{options.name}: {state}; replaced")
        commands.run(["kubectl", "delete", "jobset", options.name, *here, "--wait=true"])
    commands.run(["kubectl", "apply", "--filename=-", *here], stdin=text)
    commands.say(
        f"follow it with: launch/gke.sh logs --name {options.name} --namespace {options.namespace} --follow\n"
        f"a node pool of its own costs until it is deleted, whatever becomes of the JobSet: see docs/launch/GKE.md"
    )


def _state(commands: Commands, options: argparse.Namespace) -> str:
    """absent, running, or how the JobSet of this name ended (Completed, Failed)."""
    question = ["kubectl", "get", "jobset", options.name, f"--namespace={options.namespace}"]
    question += ["--ignore-not-found=true", "--output=json"]
    if commands.dry_run:
        commands.say(
            "if there is a JobSet of this name: one that goes on is left alone, one that has ended is deleted first"
        )
        commands.run(question)
        return "absent"
    answer = commands.output(question)
    if not answer.strip():
        return "absent"
    for condition in json.loads(answer).get("status", {}).get("conditions", []):
        if condition["type"] in ("Completed", "Failed") and condition["status"] == "True":
            return str(condition["type"])
    return "running"


def build(commands: Commands, options: argparse.Namespace) -> None:
    """Builds the image from this folder and pushes it."""
    commands.run(
        [
            *("docker", "build", f"--file={REPOSITORY / 'launch' / 'gke' / 'Dockerfile'}"),
            *("--platform=linux/amd64", f"--tag={options.image}"),
            *(f"--build-arg=REVISION={revision()}", str(REPOSITORY)),
        ]
    )
    commands.run(["docker", "push", options.image])


def show(commands: Commands, options: argparse.Namespace) -> None:
    """Prints status or logs, or deletes the JobSet, as `options.action` says."""
    here = [f"--namespace={options.namespace}"]
    selector = f"--selector=jobset.sigs.k8s.io/jobset-name={options.name}"
    if options.action == "status":
        commands.run(["kubectl", "get", "jobset", options.name, *here])
        commands.run(["kubectl", "get", "pods", selector, "--output=wide", *here])
    elif options.action == "logs":
        # kubectl follows at most five pods, and shows ten lines of each, unless told otherwise.
        flags = ["--container=train", "--prefix=true", "--tail=-1", "--max-log-requests=1000"]
        flags += ["--follow=true", "--ignore-errors=true"] if options.follow else []
        commands.run(["kubectl", "logs", selector, *flags, *here])
    else:
        commands.run(["kubectl", "delete", "jobset", options.name, *here, "--wait=true", "--ignore-not-found=true"])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    about = {
        "image": "build the image from this folder and push it",
        "run": "write the manifest and apply it; the same line resumes a run that ended or was deleted",
        "status": "the JobSet and its pods",
        "logs": "of all pods",
        "delete": "delete the JobSet; its pods save first",
    }
    result, actions = command_line("launch/gke.sh", __doc__.split("\n\n")[0], about)
    for action, sub in actions.items():
        add_dry_run(sub)
        if action in ("image", "run"):
            sub.add_argument("--image", required=True, help="e.g. us-docker.pkg.dev/PROJECT/rllava/rllava_jax:v1")
        if action == "image":
            continue
        sub.add_argument("--name", required=True, help="of the JobSet")
        sub.add_argument("--namespace", default="default")
        if action == "logs":
            sub.add_argument("--follow", action="store_true")
        if action == "run":
            _run_options(sub)
    return result


def _run_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--tpu", required=True, choices=tuple(ACCELERATORS))
    sub.add_argument("--topology", required=True, help="of one slice, in chips, e.g. 4x4; v4 and v5p: 2x2x2")
    sub.add_argument("--slices", type=int, default=1, help="one job each, joined by the network (1)")
    sub.add_argument("--chips-per-host", type=int, help="where the node pool's machines are not of the usual size")
    sub.add_argument("--spot", action="store_true", help="on spot nodes")
    sub.add_argument("--service-account", help="Kubernetes', with access to the bucket")
    sub.add_argument("--data", default="", help="gs:// folder mounted at /data; sets --config.data.root=/data")
    sub.add_argument("--max-restarts", type=int, default=100, help="of the whole JobSet (100)")
    sub.add_argument(
        "--grace", type=int, default=300, help="seconds between SIGTERM and SIGKILL; spot nodes get 15 (300)"
    )
    add_program(sub, config="a path inside the image", workdir="gs://…")


def main(argv: Sequence[str]) -> int:
    """Does one action. Returns the exit status."""
    options = parser().parse_args(argv)
    commands = Commands(dry_run=options.dry_run)
    try:
        if options.action == "run":
            if not commands.compiles_here(options):
                run(commands, options)
        elif options.action == "image":
            build(commands, options)
        else:
            show(commands, options)
    except LaunchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status if isinstance(error, CommandFailed) else MENDABLE
    except KeyboardInterrupt:  # out of --follow
        return 130
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

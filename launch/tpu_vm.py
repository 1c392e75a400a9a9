"""Runs on Cloud TPU VMs through queued resources: create or reuse, wait, set up, run on all workers, logs back, delete.

Started by `launch/tpu_vm.sh`; see its --help and docs/launch/TPU_VM.md. Python instead of shell because the life of a
queued resource is a state machine over JSON answers, and arguments pass two shells on their way to a worker.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

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
    starts_again,
)
from queued_resource import LOST, WAITING, Preempted, Tpu

KILLED = 137  # what a worker counts as whose program is gone without an exit code, after a reboot say
DATA = "/var/tmp/rllava_data"  # where tpu_vm_worker.sh lays the copy of --data

# https://cloud.google.com/tpu/docs/runtimes
_RUNTIMES = {
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
}


def worker(*words: str) -> str:
    """A call of tpu_vm_worker.sh, quoted for the worker's shell."""
    return shlex.join(["bash", "rllava_jax/launch/tpu_vm_worker.sh", *words])


def obtain(tpu: Tpu, options: argparse.Namespace) -> bool:
    """Creates the queued resource, or takes the one of this name, and waits until it is active; whether it is new."""
    commands = tpu.commands
    runtime = options.runtime_version or _RUNTIMES.get(options.type.split("-")[0], "")
    if not runtime:
        raise LaunchError(f"--type {options.type}: its runtime is not known here; give --runtime-version")
    flags = [*(["--spot"] if options.spot else []), *(["--reserved"] if options.reserved else [])]
    flags += [f"--service-account={options.service_account}"] if options.service_account else []
    flags += options.create_flag
    if commands.dry_run:
        commands.say(f"unless {tpu.name} is there already:")
        tpu.create(options.type, runtime, flags)
        commands.say(f"every {options.poll} s, until it says ACTIVE:")
        commands.run(tpu.list_command())
        return True
    shown, new = None, False
    while (state := tpu.state()) != "ACTIVE":
        if state != shown:
            commands.say(f"{tpu.name}: {state or 'to be created'}")
            shown = state
        if state is None:
            tpu.create(options.type, runtime, flags)
            new = True
        elif state == "SUSPENDED":
            tpu.delete()
        elif state == "FAILED":
            raise LaunchError(
                f"{tpu.name} FAILED: gcloud compute tpus queued-resources describe {tpu.name} "
                f"{shlex.join(tpu.place)} says why; then delete it and run this line again"
            )
        elif state not in (*WAITING, "SUSPENDING", "DELETING"):
            raise LaunchError(f"{tpu.name} is in state {state}, which this script does not know")
        else:
            time.sleep(options.poll)
    commands.say(f"{tpu.name}: ACTIVE")
    return new


def set_up(tpu: Tpu, options: argparse.Namespace) -> None:
    """The code and its environment on all workers: this folder as it is, or a clone."""
    if options.clone:
        code = (
            "if [ ! -d rllava_jax/.git ]; then git clone --quiet "
            f"{shlex.quote(options.clone)} rllava_jax; fi && git -C rllava_jax fetch --quiet origin && "
            f"git -C rllava_jax checkout --quiet --detach {shlex.quote(options.ref)}"
        )
    else:
        apart = hashlib.sha256(str(Path(options.logs).resolve()).encode()).hexdigest()[:8]  # two launches at once
        archive = f"/tmp/rllava_jax-{tpu.name}-{apart}.tar.gz"
        # Tracked and new files as they are, without what git ignores; one deleted but still tracked is passed over.
        pack = (
            "git ls-files -z --cached --others --exclude-standard | "
            f"tar --create --gzip --ignore-failed-read --null --files-from=- --file={archive}"
        )
        tpu.commands.run(["bash", "-c", f"cd {shlex.quote(str(REPOSITORY))} && {pack}"])
        for node in tpu.nodes:
            tpu.commands.run(tpu.scp_command(archive, node, "rllava_jax.tar.gz"))
        code = "rm -rf rllava_jax && mkdir rllava_jax && tar -xzf rllava_jax.tar.gz -C rllava_jax"
    idle = "{ [ ! -e rllava_jax/launch/tpu_vm_worker.sh ] || " + worker("idle") + "; }"  # never under a running program
    tpu.on_all(f"{idle} && {code} && {worker('setup', options.data, options.setup)}")


def start(tpu: Tpu, key: str, line: Sequence[str]) -> None:
    """Starts the program on all workers of all slices, where it does not run already."""
    tpu.on_all(f"RLLAVA_REVISION={revision()} {worker('start', key, *line)}")


def statuses(tpu: Tpu) -> list[tuple[str, str]] | None:
    """(key, state) of each worker; None where not all could be asked just now. Raises Preempted."""
    found = []
    for node in tpu.nodes:
        expected = tpu.workers(node)
        try:
            text = tpu.commands.output(tpu.ssh_command(node, worker("status"))).decode(errors="replace")
        except CommandFailed:
            return None
        lines = re.findall(r"^rllava-status \S+ (\S+) (\S+)$", text, flags=re.MULTILINE)
        if len(lines) != expected:
            return None
        found += lines
    return found


def verdict(states: Sequence[str]) -> tuple[str, int]:
    """What the workers' states call for: ("wait" | "finished" | "stop" | "again", exit code).

    An error on one host makes the others end with 76, so a code that forbids a restart outweighs all others.
    """
    codes = [
        int(state.split(":")[1]) if state.startswith("exited:") else KILLED for state in states if state != "running"
    ]
    failed = [code for code in codes if code != DONE]
    forbidding = [code for code in failed if not starts_again(code)]
    if forbidding:
        return "stop", forbidding[0]
    if failed:
        return "again", max(failed)
    return ("wait", DONE) if len(codes) < len(states) else ("finished", DONE)


def follow(tpu: Tpu, options: argparse.Namespace) -> tuple[str, int]:
    """Shows the first worker's log until the program has ended everywhere. Raises Preempted."""
    offset, unanswered, ending = 0, 0, 0.0
    log = Path(options.logs) / "log.txt"
    while True:
        time.sleep(options.poll)
        if tpu.state() in (None, *LOST):
            raise Preempted
        states = None
        try:
            states = statuses(tpu)
            # Asked after the states, so that the last lines of a program that has ended are among them.
            new = tpu.commands.output(tpu.ssh_command(tpu.nodes[0], worker("log", str(offset)), worker="0"))
            offset += len(new)
            sys.stdout.buffer.write(new)
            sys.stdout.buffer.flush()
            with log.open("ab") as file:
                file.write(new)
        except CommandFailed as error:
            tpu.commands.say(str(error))
        unanswered = 0 if states is not None else unanswered + 1
        if unanswered > options.patience:
            raise LaunchError(
                f"{tpu.name}: not all workers answered {unanswered} times in a row; see `tpu_vm.sh status`"
            )
        if states is None:
            continue
        kind, code = verdict([state for _, state in states])
        if kind in ("stop", "again") and any(state == "running" for _, state in states):
            # The others find out by their heartbeats and end with 76; one that does not is told to.
            ending = ending or time.monotonic()
            if time.monotonic() - ending < options.grace:
                continue
            stop(tpu)
        if kind != "wait":
            return kind, code


def stop(tpu: Tpu) -> None:
    """Ends the program on every worker; the TPU stays."""
    tpu.on_all(worker("stop"))


def fetch_logs(tpu: Tpu, folder: Path) -> None:
    """The whole log of every worker. One at a time: gcloud 528's `--output-directory` writes to "None/"."""
    if tpu.commands.dry_run:
        tpu.commands.say(f"for each worker W of each slice, into {folder}/:")
        for node in tpu.nodes:
            tpu.commands.run(tpu.ssh_command(node, worker("log", "0"), worker="0"))
        return
    folder.mkdir(parents=True, exist_ok=True)
    for node in tpu.nodes:
        for index in range(tpu.workers(node)):
            file = folder / f"{node}-worker-{index}.log"
            file.write_bytes(tpu.commands.output(tpu.ssh_command(node, worker("log", "0"), worker=str(index))))
    tpu.commands.say(f"logs: {folder}")


def run(tpu: Tpu, options: argparse.Namespace) -> int:
    """The whole life of a run; returns the program's exit code."""
    line = [options.config, options.workdir, *options.arguments]
    if options.data:
        line.append(f"--config.data.root={DATA}")
    key = hashlib.sha256(json.dumps(line).encode()).hexdigest()[:12]
    commands, restarts, prepared = tpu.commands, 0, False
    if commands.dry_run:
        obtain(tpu, options)
        set_up(tpu, options)
        start(tpu, key, line)
        commands.say(f"every {options.poll} s, until the program has ended on all workers:")
        commands.run(tpu.ssh_command(tpu.nodes[0], worker("log", "0"), worker="0"))
        tpu.on_all(worker("status"))
        fetch_logs(tpu, Path(options.logs))
        if options.delete_after:
            tpu.delete()
        return DONE
    Path(options.logs).mkdir(parents=True, exist_ok=True)
    while True:
        lost = False
        new = obtain(tpu, options)
        try:
            if new or restarts or not goes_on(tpu, key):
                if new or not prepared:
                    set_up(tpu, options)
                    prepared = True
                start(tpu, key, line)
            kind, code = follow(tpu, options)
        except Preempted:
            kind, code, lost = "again", KILLED, True
        except CommandFailed:
            if tpu.state() not in (None, *LOST):
                raise
            kind, code, lost = "again", KILLED, True
        if lost:
            commands.say(f"{tpu.name} was preempted")
            if tpu.state() == "ACTIVE":
                tpu.delete()  # a node was taken back, and the request does not say so yet
        if kind != "again" or restarts >= options.max_restarts:
            return finish(tpu, options, code)
        restarts += 1
        commands.say(f"exit code {code}; starting again ({restarts} of at most {options.max_restarts} restarts)")


def deletion(tpu: Tpu) -> str:
    """The line that deletes the queued resource, to be shown."""
    return f"launch/tpu_vm.sh delete --name {tpu.name} {shlex.join(tpu.place)}"


def goes_on(tpu: Tpu, key: str) -> bool:
    """Whether this very line is running there, so that we only watch it. Raises LaunchError where another one is."""
    found = statuses(tpu) or []
    running = {known for known, state in found if state == "running"}
    if running - {key}:
        raise LaunchError(
            f"another run goes on on {tpu.name}; stop it first: launch/tpu_vm.sh stop --name {tpu.name} …"
        )
    return bool(running)


def finish(tpu: Tpu, options: argparse.Namespace, code: int) -> int:
    """Logs back, and the machines deleted or their cost named."""
    try:
        fetch_logs(tpu, Path(options.logs))
    except (CommandFailed, Preempted) as error:
        tpu.commands.say(f"the logs could not be fetched ({error}); what was seen of them is in {options.logs}/log.txt")
    if options.delete_after:
        tpu.delete()
        tpu.commands.say(f"{tpu.name}: deleted")
    else:
        tpu.commands.say(f"{tpu.name} goes on costing: {deletion(tpu)}")
    tpu.commands.say(f"exit code {code}")
    return code


def show_status(tpu: Tpu) -> int:
    """Prints the queued resource's state, and what runs on each worker."""
    if tpu.commands.dry_run:
        tpu.commands.run(tpu.list_command())
        tpu.on_all(worker("status"))
        return DONE
    state = tpu.state()
    print(f"{tpu.name}: {state or 'not there'}")
    if state == "ACTIVE":
        tpu.on_all(worker("status"))
    return DONE


def parser() -> argparse.ArgumentParser:
    """The command line."""
    about = {
        "run": "create or reuse, set up, run, follow and start again until done; the same line resumes or watches",
        "status": "the queued resource's state, and what runs on each worker",
        "logs": "fetch every worker's log",
        "stop": "end the program (it saves first); the TPU stays and costs",
        "delete": "delete the queued resource and its machines",
    }
    result, actions = command_line("launch/tpu_vm.sh", __doc__.split("\n\n")[0], about)
    for action, sub in actions.items():
        sub.add_argument("--name", required=True, help="of the queued resource")
        sub.add_argument("--zone", required=True)
        sub.add_argument("--project", help="gcloud's own by default")
        sub.add_argument("--slices", type=int, default=1, help="TPU slices of this type, joined by the network (1)")
        sub.add_argument("--internal-ip", action="store_true", help="ssh over the private network")
        add_dry_run(sub)
        sub.add_argument("--logs", help="folder for logs (launch_logs/NAME)")
        if action == "run":
            _run_options(sub)
    return result


def _run_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--type", required=True, help="accelerator type, e.g. v5litepod-16, v4-32, v5p-32, v6e-16")
    sub.add_argument("--runtime-version", help="the type's own by default")
    sub.add_argument("--spot", action="store_true", help="cheap, and taken back at any time")
    sub.add_argument("--reserved", action="store_true", help="from a reservation")
    sub.add_argument("--service-account", help="of the machines; it needs access to the bucket")
    sub.add_argument(
        "--create-flag", action="append", default=[], metavar="FLAG", help="another of create's, as one word"
    )
    sub.add_argument("--data", default="", help=f"gs:// folder copied to every worker; sets --config.data.root={DATA}")
    sub.add_argument("--setup", default="", help="one more command on every worker before the run, e.g. a mount")
    sub.add_argument("--clone", metavar="URL", help="clone this repository instead of copying this folder")
    sub.add_argument("--ref", default="origin/HEAD", help="what to check out with --clone")
    sub.add_argument("--max-restarts", type=int, default=100, help="after preemptions and interruptions (100)")
    sub.add_argument("--poll", type=float, default=60, help="seconds between two looks (60)")
    sub.add_argument("--grace", type=float, default=600, help="seconds for the other workers once one has ended (600)")
    sub.add_argument("--patience", type=int, default=20, help="looks in a row without an answer (20)")
    sub.add_argument("--delete-after", action="store_true", help="delete the TPU at the end, whatever the exit code")
    add_program(sub, workdir="gs://…, or a shared folder that --setup mounts")


def check(options: argparse.Namespace) -> None:
    """Mistakes that would show only once a TPU costs. Raises LaunchError."""
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", options.name):
        raise LaunchError(f"--name {options.name}: write lower-case letters, digits and hyphens")
    if options.slices < 1:
        raise LaunchError(f"--slices {options.slices}: write a number from 1")
    if options.action != "run":
        return
    for name in ("max_restarts", "poll", "grace", "patience"):
        if getattr(options, name) < 0:
            raise LaunchError(f"--{name.replace('_', '-')} {getattr(options, name):g}: write a number from 0")
    if not options.workdir.startswith("gs://") and not (options.workdir.startswith("/") and options.setup):
        raise LaunchError(
            f"{options.workdir}: a TPU VM's own disk is lost with it; give a gs:// workdir, or an absolute folder that "
            "--setup mounts on every worker"
        )
    if not options.clone and not (REPOSITORY / options.config).is_file():
        raise LaunchError(f"{options.config}: no such file under {REPOSITORY}, from where it is copied to the workers")
    if options.data and not options.data.startswith("gs://"):
        raise LaunchError(f"--data {options.data}: write gs://BUCKET/FOLDER")


def main(argv: Sequence[str]) -> int:
    """Does one action. Returns the exit status."""
    options = parser().parse_args(argv)
    commands = Commands(dry_run=options.dry_run)
    options.logs = options.logs or f"launch_logs/{options.name}"
    place = (f"--zone={options.zone}", *([f"--project={options.project}"] if options.project else []))
    tpu = Tpu(commands, options.name, options.slices, place, ("--internal-ip",) if options.internal_ip else ())
    watching = False
    try:
        if options.action == "run" and commands.compiles_here(options):
            return DONE
        check(options)
        if options.action == "run":
            watching = not options.dry_run
            return run(tpu, options)
        if options.action == "status":
            return show_status(tpu)
        if options.action == "logs":
            fetch_logs(tpu, Path(options.logs))
        else:
            stop(tpu) if options.action == "stop" else tpu.delete()
    except (LaunchError, Preempted) as error:
        print(f"error: {error or f'{options.name} was preempted'}", file=sys.stderr)
        if watching:
            print(f"if {options.name} is there, it costs: {deletion(tpu)}", file=sys.stderr)
        return error.status if isinstance(error, CommandFailed) else MENDABLE
    except KeyboardInterrupt:
        print(
            f"\nno longer watched; it goes on, and costs. The same line watches it again; to end it: {deletion(tpu)}",
            file=sys.stderr,
        )
        return 130
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The gcloud commands of one queued resource of Cloud TPUs, and its states.

Commands and states: https://cloud.google.com/tpu/docs/queued-resources, flags:
https://cloud.google.com/sdk/gcloud/reference/compute/tpus/queued-resources/create and …/compute/tpus/tpu-vm/ssh.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from command_runner import CommandFailed, Commands

WAITING = ("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING")
LOST = ("SUSPENDING", "SUSPENDED")  # its machines were taken back; it will get no others
NODE_LOST = ("PREEMPTED", "TERMINATED", "STOPPED", "STOPPING", "DELETING")


class Preempted(Exception):
    """The TPU was taken back: the queued resource is to be made anew."""


@dataclass(frozen=True)
class Tpu:
    """The gcloud commands of one queued resource.

    Attributes:
      place: --zone, and --project where given.
      ssh_flags: of each ssh and scp.
    """

    commands: Commands
    name: str
    slices: int
    place: tuple[str, ...]
    ssh_flags: tuple[str, ...]

    @property
    def nodes(self) -> list[str]:
        """Names of the TPU VMs, one a slice; several are numbered by the service."""
        return [self.name] if self.slices == 1 else [f"{self.name}-{index}" for index in range(self.slices)]

    def _gcloud(self, group: str, action: str, *rest: str) -> list[str]:
        return ["gcloud", "compute", "tpus", group, action, *rest, *self.place, "--quiet"]

    def list_command(self) -> list[str]:
        return self._gcloud("queued-resources", "list", "--format=json")

    def state(self) -> str | None:
        """State of the queued resource; None where there is none of this name."""
        for found in json.loads(self.commands.output(self.list_command())):
            if found["name"].rsplit("/", 1)[-1] == self.name:
                return str(found.get("state", {}).get("state", "STATE_UNSPECIFIED"))
        return None

    def create(self, accelerator: str, runtime: str, flags: Sequence[str]) -> None:
        shape = (
            [f"--node-id={self.name}"]
            if self.slices == 1
            else [f"--node-count={self.slices}", f"--node-prefix={self.name}"]
        )
        self.commands.run(
            self._gcloud(
                "queued-resources",
                "create",
                self.name,
                f"--accelerator-type={accelerator}",
                f"--runtime-version={runtime}",
                *shape,
                *flags,
            )
        )

    def delete(self) -> None:
        """Deletes the queued resource with its machines; returns when they are gone."""
        self.commands.run(self._gcloud("queued-resources", "delete", self.name, "--force"))

    def workers(self, node: str) -> int:
        """Hosts of a slice. Raises Preempted where the slice was taken back."""
        try:
            found = json.loads(self.commands.output(self._gcloud("tpu-vm", "describe", node, "--format=json")))
        except CommandFailed:
            if self.state() in (None, *LOST):
                raise Preempted from None
            raise
        if found["state"] in NODE_LOST:
            raise Preempted
        return len(found["networkEndpoints"])

    def ssh_command(self, node: str, command: str, worker: str = "all") -> list[str]:
        """Runs a line of shell on one worker or all; the caller has quoted it for the worker's shell."""
        return self._gcloud("tpu-vm", "ssh", node, f"--worker={worker}", f"--command={command}", *self.ssh_flags)

    def on_all(self, command: str) -> None:
        """Runs a line of shell on all workers of all slices. Raises CommandFailed."""
        for node in self.nodes:
            self.commands.run(self.ssh_command(node, command))

    def scp_command(self, file: str, node: str, target: str) -> list[str]:
        return self._gcloud("tpu-vm", "scp", file, f"{node}:{target}", "--worker=all", *self.ssh_flags)

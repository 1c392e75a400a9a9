"""The manifest of a run as a JobSet: one job for each TPU slice, one pod for each of its hosts.

The API: https://jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2/, restarts:
https://jobset.sigs.k8s.io/docs/concepts/failure_policy/ and
https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy, TPUs:
https://cloud.google.com/kubernetes-engine/docs/how-to/tpu-multislice.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

# Values of the node label cloud.google.com/gke-tpu-accelerator.
ACCELERATORS = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
}

_JOB = "slice"  # of the replicated job; its pods are NAME-slice-SLICE-HOST
_PORT = 8476
# The exit codes that start everything again: interrupted and saved, lost another host, and killed by any of Linux's 64
# signals, for memory or by a crash of the runtime. Every other stops the run.
_AGAIN = [75, 76, *range(129, 193)]


@dataclass(frozen=True)
class Workload:
    """What the manifest says.

    Attributes:
      hosts: of one slice; chips: of one host.
      grace: seconds between SIGTERM and SIGKILL.
      data: gs:// folder mounted at /data, or "".
      arguments: CONFIG, WORKDIR and what else is passed on to `rllava_jax.main`.
    """

    name: str
    namespace: str
    image: str
    accelerator: str
    topology: str
    slices: int
    hosts: int
    chips: int
    spot: bool
    service_account: str | None
    data: str
    max_restarts: int
    grace: int
    arguments: tuple[str, ...]


def manifest(run: Workload) -> dict[str, Any]:
    """The JobSet, as the tree that `kubectl apply` takes."""
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": run.name,
            "namespace": run.namespace,
            # A slice is a node pool: each job gets one for itself.
            "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
        },
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "failurePolicy": {
                "maxRestarts": run.max_restarts,
                # No new pod before the last old one is gone: hosts of two generations must not meet.
                "restartStrategy": "BlockingRecreate",
                # A job that its pod failure policy failed met an error to mend; all others fall to RestartJobSet.
                "rules": [
                    {"name": "stop", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]},
                ],
            },
            "replicatedJobs": [{"name": _JOB, "replicas": run.slices, "template": {"spec": _job(run)}}],
        },
    }


def _job(run: Workload) -> dict[str, Any]:
    return {
        "parallelism": run.hosts,
        "completions": run.hosts,
        "completionMode": "Indexed",
        # A pod alone cannot be replaced: the others wait for it in collectives. So the job fails, and all start again.
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                # Before the exit code: an evicted or preempted pod may have any.
                {"action": "Count", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "train", "operator": "NotIn", "values": _AGAIN},
                },
            ]
        },
        "template": {
            "metadata": {"annotations": {"gke-gcsfuse/volumes": "true"} if run.data else {}},
            "spec": _pod(run),
        },
    }


def _pod(run: Workload) -> dict[str, Any]:
    selector = {
        "cloud.google.com/gke-tpu-accelerator": run.accelerator,
        "cloud.google.com/gke-tpu-topology": run.topology,
    }
    if run.spot:
        selector["cloud.google.com/gke-spot"] = "true"
    arguments = [*run.arguments, *(["--config.data.root=/data"] if run.data else [])]
    container: dict[str, Any] = {
        "name": "train",
        "image": run.image,
        "command": ["launch/gke/process.sh"],
        # Kubernetes replaces $(NAME) in arguments by variables of the container; $$( stands for $(.
        "args": [argument.replace("$(", "$$(") for argument in arguments],
        "env": [
            {"name": "RLLAVA_COORDINATOR", "value": f"{run.name}-{_JOB}-0-0.{run.name}:{_PORT}"},
            {"name": "RLLAVA_NUM_PROCESSES", "value": str(run.slices * run.hosts)},
            {"name": "HOSTS", "value": str(run.hosts)},
            {"name": "SLICE", "valueFrom": {"fieldRef": {"fieldPath": _JOB_INDEX}}},
        ],
        "ports": [{"containerPort": _PORT}, {"containerPort": 8471}],  # the second is libtpu's
        "resources": {
            "requests": {"google.com/tpu": run.chips},
            "limits": {"google.com/tpu": run.chips},
        },
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": run.grace,
        "nodeSelector": selector,
        "containers": [container],
    }
    if run.service_account:
        pod["serviceAccountName"] = run.service_account
    if run.data:
        container["volumeMounts"] = [{"name": "data", "mountPath": "/data", "readOnly": True}]
        pod["volumes"] = [{"name": "data", "csi": _bucket(run.data)}]
    return pod


_JOB_INDEX = "metadata.annotations['jobset.sigs.k8s.io/job-index']"


def _bucket(data: str) -> dict[str, Any]:
    """https://cloud.google.com/kubernetes-engine/docs/how-to/cloud-storage-fuse-csi-driver-ephemeral."""
    bucket, _, folder = data.removeprefix("gs://").strip("/").partition("/")
    options = "implicit-dirs" + (f",only-dir={folder}" if folder else "")
    return {
        "driver": "gcsfuse.csi.storage.gke.io",
        "readOnly": True,
        "volumeAttributes": {"bucketName": bucket, "mountOptions": options},
    }


def yaml(tree: Any, indent: int = 0) -> str:
    """Block YAML of dicts, lists, strings, numbers and booleans. Scalars are spelt as JSON, which YAML contains."""
    pad = "  " * indent
    if isinstance(tree, dict) and tree:
        return "".join(f"{pad}{key}:{_under(value, indent + 1)}" for key, value in tree.items())
    if isinstance(tree, list) and tree:
        # "- " takes the place of the first line's indent.
        return "".join(f"{pad}- {yaml(item, indent + 1).lstrip()}" for item in tree)
    return f"{pad}{json.dumps(tree)}\n"


def _under(value: Any, indent: int) -> str:
    if isinstance(value, (dict, list)) and value and not all(isinstance(item, int) for item in value):
        return "\n" + yaml(value, indent)
    return f" {json.dumps(value)}\n"

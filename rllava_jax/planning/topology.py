"""Devices that are not here: `v5e:4x4`, `v5e:16x16*2` (two slices), `h100:64` (hosts of eight).

XLA compiles for them ahead of time with the compiler of their platform, which is a package (libtpu, or NVIDIA's PJRT
plugin) and needs no hardware.
"""

import importlib.util
import math
import os
import re
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jax

from data_pipelines.core.errors import InvalidOption, MissingPackage
from rllava_jax.planning.chips import CHIPS, GPUS_PER_HOST, Chip

_TOPOLOGY = re.compile(r"(\w+):(\d+(?:x\d+){0,2})(?:\*(\d+))?")
# Slices that can be rented (cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}). Flat ones; cubes are these, or of sides that
# are multiples of four, none shorter than the one before it, up to so many chips.
_FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_SMALL_CUBES = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
_MOST_CHIPS = {"v4": 4096, "v5p": 6144}
_EXAMPLES = "v5e:4x4, v4:2x2x2, v5p:2x2x2, v6e:4x4, v5e:16x16*2 (two slices), h100:8, h100:64"

# libtpu asks the machine that it runs on what it is; these answer in place of a TPU VM's metadata server.
_TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    # A second process may hold libtpu at the same time: nothing here touches a chip.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclass(frozen=True)
class Topology:
    """Chips as they are rented.

    Attributes:
      shape: chips of a slice along each of its axes; one number for GPUs.
      slices: TPU slices joined by the data-centre network; 1 for GPUs, whose hosts are no slices to JAX.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def devices(self) -> int:
        """Devices in all slices."""
        return math.prod(self.shape) * self.slices

    @property
    def island(self) -> int:
        """Devices joined by the fast fabric: those of a slice, or of a GPU host. Consecutive in JAX's numbering."""
        return min(self.devices, GPUS_PER_HOST) if self.chip.platform == "cuda" else math.prod(self.shape)

    @property
    def file_name(self) -> str:
        """The name where a file system must bear it."""
        return self.name.replace(":", "_").replace("*", "_slices")


def parse_topology(text: str) -> Topology:
    """Reads `CHIP:AxB[xC][*SLICES]` of a TPU, or `CHIP:N` of GPUs.

    Raises:
      ConfigError: no such chip or shape.
    """

    def invalid(reason: str) -> InvalidOption:
        return InvalidOption(f"--topology {text}: {reason}")

    match = _TOPOLOGY.fullmatch(text)
    if match is None:
        raise invalid(f"is not a topology; write one like {_EXAMPLES}")
    chip, sides = CHIPS.get(match[1]), tuple(map(int, match[2].split("x")))
    if chip is None:
        raise invalid(f"no chip {match[1]!r} is known here; there are {', '.join(CHIPS)}")
    gpu, slices = chip.platform == "cuda", int(match[3] or 1)
    wanted = 1 if gpu else 3 if chip.name in _MOST_CHIPS else 2
    if len(sides) != wanted or 0 in sides or slices < 1 or (gpu and match[3]):
        raise invalid(f"{chip.label} takes {wanted} number(s){' and no slices' if gpu else ''}; e.g. {_EXAMPLES}")
    if not gpu and not _is_rented(chip.name, sides):
        some = _FLAT if wanted == 2 else (*_SMALL_CUBES, (4, 4, 4), (4, 4, 8))
        known = ", ".join("x".join(map(str, shape)) for shape in some)
        raise invalid(
            f"no slice of {chip.label} has this shape; there are {known}{'' if wanted == 2 else ' and larger'}"
        )
    if gpu and sides[0] > GPUS_PER_HOST and sides[0] % GPUS_PER_HOST:
        raise invalid(f"more than {GPUS_PER_HOST} GPUs come in whole hosts of {GPUS_PER_HOST}")
    return Topology(text, chip, sides, slices)


def _is_rented(name: str, sides: tuple[int, ...]) -> bool:
    if len(sides) == 2:
        return sides in _FLAT
    multiples = all(side % 4 == 0 for side in sides) and list(sides) == sorted(sides)
    return sides in _SMALL_CUBES or (multiples and math.prod(sides) <= _MOST_CHIPS[name])


def require_compiler(topology: Topology) -> None:
    """Raises ConfigError, with the line that installs it, where the chip's compiler is missing."""
    tpu, version = topology.chip.platform == "tpu", jax.__version__
    plugins = f"--no-deps jax-cuda12-plugin=={version} jax-cuda12-pjrt=={version}"
    package, remedy = ("libtpu", f'"jax[tpu]=={version}"') if tpu else ("jax_cuda12_plugin", plugins)
    if importlib.util.find_spec(package) is None:
        kind = "TPU" if tpu else "GPU"
        raise MissingPackage(
            f"--topology {topology.name}: needs the {kind} compiler; pip install {remedy} (no {kind} is needed)"
        )


def topology_devices(topology: Topology) -> list[Any]:
    """The topology's devices, to build a mesh of and compile for; nothing can run on them.

    Must come before JAX's first use of a device in the process: this machine's own accelerators are left alone.

    Raises:
      ConfigError: the compiler is missing, or knows no such slice.
    """
    require_compiler(topology)
    jax.config.update("jax_platforms", "cpu")
    if topology.chip.platform == "tpu":
        for name, value in _TPU_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        name, options = _tpu_options(topology)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # the plugin remarks, several times, that there is no driver
        jax.devices()  # plugins announce their topologies when the first backend starts
        target = resources.files("rllava_jax.planning").joinpath(f"{topology.chip.name}.txtpb").read_text()
        hosts = topology.devices // topology.island
        options = {"target_config": target, "topology": f"1x{hosts}x{topology.island}"}
        name = topology.chip.name
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(name, topology.chip.platform, **options).devices
    except (RuntimeError, ValueError) as error:  # XLA's own errors are RuntimeErrors
        reason = str(error).splitlines()[0]
        raise InvalidOption(f"--topology {topology.name}: {reason}; write one like {_EXAMPLES}") from None
    if len(found) != topology.devices:
        raise InvalidOption(f"--topology {topology.name}: the compiler sees {len(found)} devices in it")
    return list(found)


def _tpu_options(topology: Topology) -> tuple[str, dict[str, Any]]:
    shape = "x".join(map(str, topology.shape))
    options: dict[str, Any] = {}
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    if topology.chip.name == "v4":
        # Both cores as one device, which is how JAX runs on v4.
        options["chip_config_name"] = "megacore"
    if any(side % 2 for side in topology.shape[:2]):
        # A part of a host: 1x1 above all.
        options["chips_per_host_bounds"] = [*topology.shape, *(1,) * (3 - len(topology.shape))]
    return f"{topology.chip.name}:{shape}", options

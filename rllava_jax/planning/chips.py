"""What the chips that can be rented are made of, and how fast a step can be on them.

A step takes the larger of its arithmetic and its memory traffic, and what it says to other devices. The figures are
published ones, and the memory that the chips' runtime leaves.

Sources: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}; NVIDIA's H100 SXM and A100 SXM 80 GB data sheets. A TPU's usable
memory is the limit that its own compiler (libtpu 0.0.42) names when a program does not fit.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rllava_jax.planning.traffic import Collective
from rllava_jax.runtime.process_memory import GPU_SHARE

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One accelerator as JAX counts devices (a v4 or v5p chip's two cores are one device).

    Attributes:
      memory: GiB of HBM on the chip. usable: what of it a program can have.
      flops: peak of bfloat16 matrix products, per second.
      hbm: bytes per second between HBM and the cores.
      fabric: bytes per second that the chip sends, over all its links, to its slice (ICI) or host (NVLink).
      network: the same between slices or hosts (data-centre network, InfiniBand).
      kept: why usable is less than memory.
    """

    name: str
    label: str
    platform: Literal["tpu", "cuda"]
    memory: float
    usable: float
    flops: float
    hbm: float
    fabric: float
    network: float
    kept: str

    @property
    def fabric_name(self) -> str:
        """What the chips of one slice or host are joined by."""
        return "ICI" if self.platform == "tpu" else "NVLink"

    @property
    def network_name(self) -> str:
        """What slices or hosts are joined by."""
        return "DCN" if self.platform == "tpu" else "InfiniBand"


_COMPILER = "the limit that XLA for TPU itself holds programs to"
_FRACTION = f"the share that the programs take, XLA_PYTHON_CLIENT_MEM_FRACTION={GPU_SHARE}"

CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("v4", "TPU v4", "tpu", 32, 30.75, 275e12, 1228e9, 300e9, 6.25e9, _COMPILER),
        Chip("v5e", "TPU v5e", "tpu", 16, 15.75, 197e12, 819e9, 200e9, 3.125e9, _COMPILER),
        Chip("v5p", "TPU v5p", "tpu", 95.74, 95.74, 459e12, 2765e9, 600e9, 6.25e9, _COMPILER),
        Chip("v6e", "TPU v6e", "tpu", 32, 31.25, 918e12, 1600e9, 400e9, 12.5e9, _COMPILER),
        Chip("h100", "H100 SXM 80 GB", "cuda", 79.1, 79.1 * GPU_SHARE, 989e12, 3350e9, 450e9, 50e9, _FRACTION),
        Chip("a100", "A100 SXM 80 GB", "cuda", 79.1, 79.1 * GPU_SHARE, 312e12, 2039e9, 300e9, 25e9, _FRACTION),
    )
}
GPUS_PER_HOST = 8

# Shares of the published peaks that well-made programs of this kind reach; they are assumptions, and reported as such.
# Large matrix products alone reach 0.7 to 0.9 of a TPU's peak and 0.6 to 0.75 of an H100's.
MATMUL_SHARE = {"tpu": 0.65, "cuda": 0.55}
HBM_SHARE = 0.8
# A collective over one axis of a torus uses the links along that axis: half of a chip's, on v5e and v6e.
FABRIC_SHARE = 0.5
NETWORK_SHARE = 0.7


@dataclass(frozen=True)
class Roofline:
    """Seconds of one step on each of the resources, on the busiest device.

    Attributes:
      hidden: communication wholly behind the rest. exposed: none of it, which is the estimate that is counted with.
    """

    compute: float
    hbm: float
    fabric: float
    network: float

    @property
    def hidden(self) -> float:
        """Seconds of a step whose communication is wholly overlapped."""
        return max(self.compute, self.hbm, self.fabric, self.network)

    @property
    def exposed(self) -> float:
        """Seconds of a step that waits for all of its communication."""
        return max(self.compute, self.hbm) + self.fabric + self.network

    @property
    def bound(self) -> str:
        """The resource that takes longest."""
        return max(dataclasses.asdict(self).items(), key=lambda resource: resource[1])[0]


def roofline(chip: Chip, *, flops: float, hbm: float, collectives: Sequence[Collective]) -> Roofline:
    """The estimate.

    Args:
      flops: hardware operations of a device in a step. hbm: bytes of its HBM traffic.
    """
    fast = sum(collective.bytes for collective in collectives if not collective.slow)
    slow = sum(collective.bytes for collective in collectives if collective.slow)
    return Roofline(
        flops / (chip.flops * MATMUL_SHARE[chip.platform]),
        hbm / (chip.hbm * HBM_SHARE),
        fast / (chip.fabric * FABRIC_SHARE),
        slow / (chip.network * NETWORK_SHARE),
    )


def assumptions(chip: Chip) -> list[str]:
    """What the estimate takes for granted, in words."""
    return [
        f"{chip.label}: {chip.flops / 1e12:g} TFLOP/s bfloat16, HBM {chip.hbm / 1e9:g} GB/s, {chip.fabric_name} "
        f"{chip.fabric / 1e9:g} GB/s and {chip.network_name} {chip.network / 1e9:g} GB/s sent by each chip (published)",
        f"reached of them: {MATMUL_SHARE[chip.platform]:g} of the arithmetic, {HBM_SHARE:g} of HBM, {FABRIC_SHARE:g} "
        f"of {chip.fabric_name}, {NETWORK_SHARE:g} of {chip.network_name} (assumed)",
        "a step takes the longer of arithmetic and HBM, and then its communication, none of it hidden; "
        '"at best" hides all of it',
        "HBM bytes are the operands and results of every instruction of the compiled program that does not lie on the "
        "chip; collectives move what the ring algorithm moves",
        "input, evaluation and checkpoints cost nothing",
    ]

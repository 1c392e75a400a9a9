"""What the chips that can be rented are made of: published figures, and the memory that their runtime leaves.

Sources: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}; NVIDIA's H100 SXM and A100 SXM 80 GB data sheets. A TPU's usable
memory is the limit that its own compiler (libtpu 0.0.42) names when a program does not fit.
"""

from dataclasses import dataclass
from typing import Literal

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

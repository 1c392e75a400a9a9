"""How fast a step can be: the larger of its arithmetic and its memory traffic, and what it says to other devices."""

from collections.abc import Sequence
from dataclasses import dataclass

from rllava_jax.planning.chips import Chip
from rllava_jax.planning.traffic import Collective

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
        times = {"compute": self.compute, "hbm": self.hbm, "fabric": self.fabric, "network": self.network}
        return max(times, key=lambda name: times[name])


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

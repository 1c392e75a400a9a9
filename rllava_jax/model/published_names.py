"""How an array of ours is spelled in a Hugging Face folder: one row of data, read in both directions.

`interop/layout.py` holds the rows of PaliGemma itself. What extends the model (a region encoder, an auxiliary head of a
loss) declares its own rows in the file that defines the parameters, once, at its top level:

    register_spellings("roi/toy", Spelling("roi/toy/kernel", "region_branch.toy.weight", "G W -> W G"))

Parameters that are declared nowhere cannot be exported: `interop.layout.spellings` refuses them by name.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import einops
import numpy as np


@dataclass(frozen=True)
class Spelling:
    """One of their tensors, as a part of one of our arrays.

    Attributes:
      ours: the array.
      theirs: the tensor's canonical name, see `canonical`; `{layer}` where ours has a leading layer axis.
      pattern: ours, without layer axis and index, → theirs.
      index: where ours holds several tensors on its first axis (after the layers'), which one this is.
    """

    ours: str
    theirs: str
    pattern: str
    index: int | None = None

    @property
    def layered(self) -> bool:
        """Whether ours is a stack over layers."""
        return "{layer}" in self.theirs

    def part(self, layer: np.ndarray) -> np.ndarray:
        """Our part of a layer's slice (or of the whole, where there are no layers); a view."""
        return layer if self.index is None else layer[self.index]

    def export(self, part: np.ndarray) -> np.ndarray:
        """Their tensor of our part (one layer, one index)."""
        return np.ascontiguousarray(einops.rearrange(part, self.pattern))

    def part_shape(self, ours: Sequence[int]) -> tuple[int, ...]:
        """Shape of our part, given the shape of the whole array."""
        return tuple(ours[int(self.layered) + int(self.index is not None) :])

    def import_(self, tensor: np.ndarray, part_shape: Sequence[int]) -> np.ndarray:
        """Our part of their tensor; the inverse of `export`."""
        left, right = self.pattern.split(" -> ")
        sizes = {name: size for name, size in zip(left.split(), part_shape, strict=True) if name != "1"}
        return einops.rearrange(tensor, f"{right} -> {left}", **sizes)

    def their_shape(self, ours: Sequence[int]) -> tuple[int, ...]:
        """Shape of their tensor, given the shape of our whole array."""
        left, right = self.pattern.split(" -> ")
        sizes = dict(zip(left.split(), self.part_shape(ours), strict=True))
        groups = re.findall(r"\(([^)]*)\)|(\S+)", right)
        return tuple(int(np.prod([sizes[name] for name in (group or single).split()])) for group, single in groups)


REGISTERED: dict[str, tuple[Spelling, ...]] = {}


def register_spellings(owner: str, *rows: Spelling) -> None:
    """Declares how the arrays under `owner/` are spelled.

    Raises:
      ValueError: a row of another owner's array, or an owner that has declared other rows already.
    """
    strangers = [row.ours for row in rows if not row.ours.startswith(f"{owner}/")]
    if strangers or REGISTERED.setdefault(owner, rows) != rows:
        raise ValueError(
            f"register_spellings: {owner} {f'does not own {strangers}' if strangers else 'has other rows'}"
        )

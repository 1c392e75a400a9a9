"""Whether a split holds what its data card says, and what is missing where it does not."""

from collections.abc import Mapping, Sequence

from data_pipelines.core.errors import listed
from data_pipelines.records import Count, SourceSplit


def found(split: SourceSplit) -> Count:
    """What a split holds, in the card's terms."""
    names = {example.image_id for example in split.examples} | {image.image_id for image in split.images}
    return Count(len(split.examples), len(names))


def shortfall(name: str, split: SourceSplit, expected: Count) -> str:
    """What is missing from a split, in one line; "" where nothing is.

    Where the card gives no number, everything that the files name and the split does not hold is missing.

    Args:
      name: of data set and split, e.g. "slake train".
    """
    short, _ = _differences(split, expected)
    unknown = expected.examples is None and expected.images is None
    if not short and not (unknown and any(split.left_out.values())):
        return ""
    return f"{name}: {'; '.join([*short, *reasons(split.left_out)])}"


def surplus(name: str, split: SourceSplit, expected: Count) -> str:
    """What a split has more of than its card says, in one line; "" where nothing is: another release, perhaps."""
    _, more = _differences(split, expected)
    return f"{name}: {'; '.join(more)}" if more else ""


def reasons(left_out: Mapping[str, Sequence[str]]) -> list[str]:
    """Each reason with its number of names, and the first of them; prepared.json has them all."""
    return [f"{reason} ({len(names)}): {listed(names)}" for reason, names in left_out.items() if names]


def _differences(split: SourceSplit, expected: Count) -> tuple[list[str], list[str]]:
    """What there is less of than expected, and what more."""
    short: list[str] = []
    more: list[str] = []
    for what, field in (("questions", "examples"), ("images", "images")):
        want, have = getattr(expected, field), getattr(found(split), field)
        if want is not None and want != have:
            (short if have < want else more).append(f"{want:,} {what} expected, {have:,} found")
    return short, more

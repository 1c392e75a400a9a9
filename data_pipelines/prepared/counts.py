"""Whether a split holds what its data card says, and what is missing where it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data_pipelines.records import Count, SourceSplit

# Names listed of each reason in a message; prepared.json has them all.
_NAMED = 10


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
    there = found(split)
    short = [
        f"{want:,} {what} expected, {have:,} found"
        for what, want, have in (
            ("questions", expected.examples, there.examples),
            ("images", expected.images, there.images),
        )
        if want is not None and (have or 0) < want
    ]
    unknown = expected.examples is None and expected.images is None
    if not short and not (unknown and any(split.left_out.values())):
        return ""
    return f"{name}: {'; '.join([*short, *listed(split.left_out)])}"


def surplus(name: str, split: SourceSplit, expected: Count) -> str:
    """What a split has more of than its card says, in one line; "" where nothing is: another release, perhaps."""
    there = found(split)
    pairs = (("questions", expected.examples, there.examples), ("images", expected.images, there.images))
    more = [
        f"{want:,} {what} expected, {have:,} found"
        for what, want, have in pairs
        if want is not None and have is not None and have > want
    ]
    return f"{name}: {'; '.join(more)}" if more else ""


def listed(left_out: Mapping[str, Sequence[str]]) -> list[str]:
    """Each reason with its number of names, and the first of them."""
    lines = []
    for reason, names in left_out.items():
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            lines.append(f"{reason} ({len(names)}): {', '.join(names[:_NAMED])}{more}")
    return lines

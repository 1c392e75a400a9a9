"""Which annotated boxes belong to an ordinary question: those whose label its words name.

The data sets box structures, not questions, so the link is made by name. A label is named where its words stand
together as whole words, in any case, singular or plural; "kidney" names "Left Kidney" and "Right Kidney", "left
kidney" only the one; "liver cancer" names "Liver Cancer" and not "Liver", because a longer name takes its words away.

Three kinds of question never get a region this way, because a box would give the answer away:
  - presence ("does the picture contain liver?"): only a present structure has a box, so on SLAKE's English training
    and validation questions the answer is "Yes" in 170 of the 170 that would have one;
  - counts ("how many kidneys?"): the number of boxes is the answer;
  - comparisons ("which is bigger, liver or spleen?") that name a structure without a box on this image.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from data_pipelines.records import AnnotatedImage, Region, VQAExample

_SIDE = re.compile(r"^(left|right) ")
_PRESENCE = re.compile(
    r"^(is|are|are/is|is/are) there\b|\bcontains?\b|\bexist\b|\bappear in\b|^do(es)? (this|the) patient have\b"
    r"|^can .+ be (observed|seen|found) in (this|the)\b|\bpresent in\b|\bvisible in\b"
)
_COUNT = re.compile(r"\bhow many\b|\bnumber of\b")
_COMPARISON = re.compile(r"\b(bigger|biggest|larger|largest|smaller|smallest)\b")


@dataclass(frozen=True)
class LinkCounts:
    """What `link_regions` did, for the log."""

    linked: int
    too_many: int
    revealing: int


def link_regions(
    examples: Sequence[VQAExample],
    images: Sequence[AnnotatedImage],
    *,
    rule: Literal["question", "answer", "none"],
    max_regions: int,
) -> tuple[list[VQAExample], LinkCounts]:
    """Sets `regions`, `distractors` and `provenance` of ordinary questions.

    A question whose data set marks its own regions keeps them under the rules "question" and "answer".

    Args:
      rule: `PolicyConfig.question_regions`. "question": the boxes whose label the question names. "answer": where
        there are none, the boxes whose label the answer names, and the revealing questions too; this leaks the
        answer and exists to measure the leak. "none": no question has a region.
      max_regions: a question that names more boxes than this gets *no* region, and is counted in `too_many`:
        showing some of "the kidneys" would be a wrong hint.

    Returns:
      The examples in their order, each with the image's other boxes as distractors, and the counts. The provenance is
      the rule that chose the boxes; of boxes that are no annotations, also where they come from: "detector:question".
    """
    image_of = {image.image_id: image for image in images}
    vocabulary = {region.label for image in images for region in image.regions if region.label}
    linked: list[VQAExample] = []
    too_many = revealing = 0
    for example in examples:
        regions, source = image_of[example.image_id].regions, image_of[example.image_id].provenance
        named = named_regions(example.question, regions) if rule != "none" else ()
        provenance = "question"
        if example.regions and rule != "none":
            named, provenance = example.regions, example.provenance or "annotation"
        elif named and rule == "question" and gives_answer_away(example.question, regions, vocabulary):
            revealing, named = revealing + 1, ()
        if not named and rule == "answer":
            named, provenance = named_regions(example.answer, regions), "answer"
        if len(named) > max_regions:
            too_many, named = too_many + 1, ()
        others = tuple(region for region in regions if region not in named)
        if source != "annotation":
            provenance = f"{source}:{provenance}"
        linked.append(replace(example, regions=named, distractors=others, provenance=provenance if named else ""))
    return linked, LinkCounts(sum(1 for e in linked if e.regions), too_many, revealing)


def named_regions(text: str, regions: Sequence[Region]) -> tuple[Region, ...]:
    """The regions whose label `text` names, in their order on the image."""
    named = _named_labels(text, {region.label for region in regions if region.label})
    return tuple(region for region in regions if region.label in named)


def structures_to_detect(question: str, names: Iterable[str]) -> tuple[str, ...]:
    """Which of the named structures an ordinary question is about, in lower case, as `detect` is trained with them.

    None for questions of presence and number. Training shows no box with these (see the top of the file), and a model
    that learnt to detect from boxed structures alone finds one in every image.
    """
    if _PRESENCE.search(question.lower()) or _COUNT.search(question.lower()):
        return ()
    return tuple(sorted({name.lower() for name in _named_labels(question, names)}))


def gives_answer_away(question: str, regions: Sequence[Region], vocabulary: Iterable[str]) -> bool:
    """Whether showing a box with this question would tell its answer (see the top of the file).

    Args:
      vocabulary: every label of the data set, to recognise a named structure that has no box on this image.
    """
    text = question.lower()
    if _PRESENCE.search(text) or _COUNT.search(text):
        return True
    if not _COMPARISON.search(text):
        return False
    boxed = {_SIDE.sub("", region.label.lower()) for region in regions}
    return any(_SIDE.sub("", label.lower()) not in boxed for label in _named_labels(text, vocabulary))


def _named_labels(text: str, labels: Iterable[str]) -> set[str]:
    """The labels named in `text`, longest names first; a name takes its words out of the text."""
    names: dict[str, set[str]] = {}
    for label in labels:
        names.setdefault(label.lower(), set()).add(label)
        names.setdefault(_SIDE.sub("", label.lower()), set()).add(label)
    found: set[str] = set()
    text = text.lower()
    for name in sorted(names, key=lambda n: (-len(n), n)):
        text, hits = _name_pattern(name).subn("|", text)
        if hits:
            found |= names[name]
    return found


@lru_cache(maxsize=4096)
def _name_pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(name)}(s|es)?(?!\w)")

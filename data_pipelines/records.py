"""The one record type: what every source yields and every later stage reads.

Boxes are `(y0, x0, y1, x1)`, normalised to the image, everywhere inside the project (PaliGemma's order);
`regions/boxes.py` converts from the `x,y,w,h` pixels of annotation files and the command line, and nothing else does.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from data_pipelines.core.errors import DataError, DuplicateId
from data_pipelines.settings import FAMILIES as FAMILIES
from data_pipelines.settings import BoxUnit, Orientation
from data_pipelines.settings import Family as Family
from data_pipelines.settings import Task as Task

Box = tuple[float, float, float, float]
AnswerType = Literal["open", "closed"]


@dataclass(frozen=True)
class StoredImage:
    """An encoded image in a prepared data set; `images.reading.fetched` reads it when it is needed.

    Attributes:
      folder: of the configuration `images`.
      split: "images" or "masks".
      position: in that split.
    """

    folder: str
    split: str
    position: int

    def __str__(self) -> str:
        return f"{self.folder}: {self.split}[{self.position}]"


@dataclass(frozen=True)
class UnnamedFile:
    """An image file whose path nobody may see, because it holds the number of a patient: messages have `name` instead.

    Attributes:
      path: is opened, and never printed.
      name: the image's image_id.
    """

    path: str = field(repr=False)
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class TurnedImage:
    """An image that is shown turned, because of the EXIF orientation of its file.

    Attributes:
      source: path of the file, or what it holds.
      turn: by which `images.orientation.turned` turns its decoded pixels, an EXIF orientation from 2 to 8.
    """

    source: "str | bytes | UnnamedFile" = field(repr=False)
    turn: int

    def __str__(self) -> str:
        return "an image" if isinstance(self.source, bytes) else str(self.source)


# Path of a file, encoded bytes, or a place in a prepared data set.
ImageSource = str | bytes | StoredImage | UnnamedFile | TurnedImage


@dataclass(frozen=True)
class MaskFile:
    """A mask kept in a grey image of the same shape as the scan: the pixels equal to `level`, or all non-zero ones."""

    path: ImageSource = field(repr=False)
    level: int | None = None

    def __str__(self) -> str:
        return "a mask" if isinstance(self.path, bytes) else str(self.path)


@dataclass(frozen=True)
class Region:
    """A region of interest: a box, and where there is one, a finer outline inside it.

    Attributes:
      box: (y0, x0, y1, x1), normalised to the image.
      label: what is inside, e.g. "Left Kidney"; never shown to the model.
      polygon: vertices (y, x), normalised to the image.
      mask: a mask image.
    """

    box: Box
    label: str = ""
    polygon: tuple[tuple[float, float], ...] | None = None
    mask: MaskFile | None = None


@dataclass(frozen=True)
class Turn:
    """A question of a conversation, and its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class VQAExample:
    """One question about one image, or a conversation that ends in it.

    Attributes:
      id: unique within the data set and stable across runs, e.g. "slake/en/1234" or "slake/identify/xmlab1/0".
      image: the image file, its encoded bytes, or its place in a prepared data set.
      image_id: names the image; examples of one image share it (splits are checked, intervals are clustered by it).
      question: for task "answer" the question, for task "detect" the thing to find, for task "caption" empty.
      answer: the expected answer; for task "detect" loc tokens and the name, for task "caption" the caption.
      accepted: further answers that the data set counts as right, as it writes them; never learnt.
      regions: the right regions of this question, possibly none.
      distractors: the image's other annotated regions, from which "another structure's box" is drawn.
      choices: the options of a multiple-choice question, else empty.
      provenance: where the regions come from: "annotation", or "question" (the box whose label the question
        names), or "answer" (chosen by the answer, which leaks), or "" when there are none. Boxes that a detector
        proposed have "detector", "detector:question" and "detector:answer" instead.
      turns: what was asked and answered before `question`, in order; every answer is learnt.
      labels: what the data set says the image shows as a whole, e.g. "Cardiomegaly"; never shown to the model.
    """

    id: str
    dataset: str
    split: str
    image: ImageSource
    image_id: str
    question: str
    answer: str
    family: Family = "vqa"
    task: Task = "answer"
    answer_type: AnswerType = "open"
    content_type: str = ""
    modality: str = ""
    language: str = "en"
    regions: tuple[Region, ...] = ()
    distractors: tuple[Region, ...] = field(default=(), repr=False)
    choices: tuple[str, ...] = ()
    provenance: str = ""
    turns: tuple[Turn, ...] = ()
    labels: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and everything that is marked on it; the region questions are rebuilt from these.

    Attributes:
      image: the image file, its encoded bytes, or its place in a prepared data set.
      image_id: as in the image's examples.
      body_part: where the data set says so, e.g. "Abdomen".
      provenance: where the regions come from: "annotation", or e.g. "detector" (`regions/detections.py`).
    """

    dataset: str
    split: str
    image: ImageSource = field(repr=False)
    image_id: str
    regions: tuple[Region, ...]
    modality: str = ""
    body_part: str = ""
    provenance: str = "annotation"


@dataclass(frozen=True)
class BoxReading:
    """How the boxes of a data set's files are read.

    Attributes:
      boxes, orientation: as `DataConfig.boxes` and `DataConfig.orientation`.
      used: whether the boxes are wanted; those that a detector's replace are neither judged nor kept.
    """

    boxes: BoxUnit = ""
    orientation: Orientation = ""
    used: bool = True


AS_FOUND = BoxReading()


@dataclass(frozen=True)
class SourceSplit:
    """One split of a source: the questions its authors ask, and its images (with or without regions).

    Attributes:
      left_out: what the files name and the lists above do not hold: reason, e.g. "image not in the folder" → names of
        images or ids of questions. `prepare` lists them where a count falls short.
      clipped: boxes that were cut to their images.
      malformed: the reasons of `left_out` that are faults of rows; of these, `left_out` holds places and values.
    """

    examples: list[VQAExample]
    images: list[AnnotatedImage]
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    clipped: int = 0
    malformed: frozenset[str] = frozenset()

    @property
    def records(self) -> list[VQAExample | AnnotatedImage]:
        """The images, then the questions."""
        return [*self.images, *self.examples]


class MalformedRows(DataError):
    """Rows of a source's files cannot be taken as they are: the code is the first one's, the line says of all.

    Attributes:
      rest: the split without them.
    """

    def __init__(self, message: str, *, code: str = "", fault: str = "", rest: SourceSplit | None = None):
        super().__init__(message, code=code, fault=fault)
        self.rest = rest or SourceSplit([], [])


def require_unique_ids(examples: Iterable[VQAExample], where: str) -> None:
    """Raises: DataError: two questions share an id; `where` names data set and split."""
    (key, number), *_ = Counter(example.id for example in examples).most_common(1) or [("", 0)]
    if number > 1:
        raise DuplicateId(f"{where}: two questions have the id {key!r}; ids must be unique")


def question_about(image: AnnotatedImage, key: str, **fields: Any) -> VQAExample:
    """A question about an image, whose data set, split, name and modality it shares.

    Args:
      key: unique within the data set; the id is "DATASET/KEY".
      fields: further ones of `VQAExample`, at least `question` and `answer`.
    """
    return VQAExample(
        id=f"{image.dataset}/{key}",
        dataset=image.dataset,
        split=image.split,
        image=image.image,
        image_id=image.image_id,
        modality=image.modality,
        **fields,
    )


@dataclass(frozen=True)
class Count:
    """What a split should contain; None where its authors do not say.

    Attributes:
      examples: questions, captions or conversations that have an image and an answer.
      images: distinct ones.
    """

    examples: int | None = None
    images: int | None = None


@dataclass(frozen=True)
class DataCard:
    """A data set as its authors publish it.

    Attributes:
      name: as in `data.source` and on the command line, e.g. "path_vqa".
      title: its published name.
      about: what it contains, in a sentence.
      paper: authors, place, arXiv number or DOI.
      url: where it is published.
      licence: as its authors state it.
      layout: files and folders under the root that `prepare` is pointed at.
      splits: expected counts by split; a data set of unknown size (the general formats) has none.
      traps: what its users have stumbled over, a sentence each.
    """

    name: str
    title: str
    about: str
    paper: str
    url: str
    licence: str
    layout: str
    splits: Mapping[str, Count]
    traps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A data set that can be loaded: its card, and `load(root, split) -> SourceSplit`; see `regions/box_reading.py`.

    `load` raises DataError where files are missing or malformed, logs what it leaves out with names, and gives the same
    records in the same order on every machine. Where single rows are malformed it raises `MalformedRows`, which has the
    rest.

    Attributes:
      splits: for a general format, whose card has none: the splits that the files under a root have.
      configured: `load` by a run's settings, of a data set for which more than `data.root` is set.
      has_boxes: whether its files give boxes; `load` and `configured` then take a `BoxReading` as well.
    """

    card: DataCard
    load: Callable[..., SourceSplit]
    splits: Callable[[str], Sequence[str]] | None = None
    configured: Callable[..., SourceSplit] | None = None
    has_boxes: bool = False

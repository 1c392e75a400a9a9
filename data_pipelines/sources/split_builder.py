"""How every source collects a split, and what their readers share: boxes, answer types."""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

from data_pipelines.core.data_root import DataRoot, NoPlainFile, OutsideRoot
from data_pipelines.core.errors import (
    DataError,
    MalformedFile,
    UnclearBoxes,
    UnknownName,
    invalid_field,
    listed,
    shortened,
)
from data_pipelines.core.json_files import finite_numbers, require_folder, text_field
from data_pipelines.images.scan_parts import split_part
from data_pipelines.records import (
    AS_FOUND,
    AnnotatedImage,
    AnswerType,
    Box,
    BoxReading,
    DataCard,
    ImageSource,
    MalformedRows,
    SourceSplit,
    UnnamedFile,
    VQAExample,
)
from data_pipelines.records import question_about as record_of_question
from data_pipelines.regions.box_reading import oriented_split
from data_pipelines.regions.given_boxes import GivenBoxes

logger = logging.getLogger(__name__)

Row = TypeVar("Row")


_PICTURES_NEEDED = ContextVar("pictures needed", default=True)


@contextlib.contextmanager
def without_pictures() -> Iterator[None]:
    """While it lasts, sources keep questions whose image file is missing, for scoring, which shows none. Such an image
    has no regions."""
    token = _PICTURES_NEEDED.set(False)
    try:
        yield
    finally:
        _PICTURES_NEEDED.reset(token)


class LeftOut:
    """Collects the entries that have no place in a split, e.g. questions whose image is not in the folder."""

    def __init__(self) -> None:
        self._reasons: dict[str, Counter[str]] = {}

    def add(self, reason: str, name: str) -> None:
        """Counts one entry under `reason`; entries of the same name, e.g. of one missing image, are named once."""
        self._reasons.setdefault(reason, Counter())[name] += 1

    def reported(self, split: str) -> dict[str, list[str]]:
        """Logs a warning for each reason, e.g. "path_vqa train: left out 3 …", and returns reason → names in order.

        The log names the first ten; what is returned, all. It is what `SourceSplit.left_out` holds.
        """
        for reason, names in self._reasons.items():
            logger.warning("%s: left out %d (%s): %s", split, names.total(), reason, listed(list(names)))
        return {reason: list(names) for reason, names in self._reasons.items()}


class SplitBuilder:
    """A split under way: its questions in order, its images by name, and what is left out of it.

    Attributes:
      images: image_id → image, in the order in which they came.
      left_out: entries that have no place in the split.
      files: what belongs to the data set; every path that an annotation file has a part in comes from there.
      boxes: what its files say is marked; `finished` judges them.
    """

    def __init__(self, dataset: str, split: str, root: str = "", reading: BoxReading = AS_FOUND):
        """Args:
        root: folder of the published files; "" of a data set that reads none.
        reading: of its boxes.
        """
        self.dataset, self.split = dataset, split
        self.files = DataRoot(root)
        self.boxes = GivenBoxes(reading, f"{dataset} {split}")
        self.examples: list[VQAExample] = []
        self.images: dict[str, AnnotatedImage] = {}
        self.left_out = LeftOut()
        self._malformed: list[DataError] = []
        self._found: dict[str, str] = {}
        self._absent: set[str] = set()

    def each(self, rows: Iterable[tuple[str, Row]], take: Callable[[str, Row], None]) -> None:
        """Takes the rows of a foreign file one by one; what a malformed one has added goes, and the others stay.

        This is how every source treats them: `finished` then raises an error that counts them by their fault, and has
        the split without them, with which `prepare --allow-missing` goes on.

        Args:
          rows: each after what names it in messages.
          take: adds what a row says. It raises DataError where the row cannot be taken, before it changes anything but
            by adding images and questions.
        """
        for where, row in rows:
            examples, images = len(self.examples), len(self.images)
            try:
                take(where, row)
            except UnclearBoxes:
                raise  # of all boxes, not of a row
            except DataError as error:
                self._malformed.append(error)
                del self.examples[examples:]
                while len(self.images) > images:
                    self.images.popitem()

    def file(self, path: str, name: str, *, where: str = "") -> str:
        """The path of an image file, as it is spelled in the folder; "" where there is none, and `name` is left out.

        Within `without_pictures` a missing file is not left out, and has `path` as it is.

        Args:
          path: the root with the name from the annotation file behind it, perhaps with a part as in `scan_parts`.
          where: names the row in messages, where a name that leads out of the data set is an error; without it such a
            row is left out.

        Raises:
          DataError: see `where`; `core/data_root.py` says what belongs to a data set.
        """
        if path not in self._found:
            whole = split_part(path)[0]
            try:
                found = self.files.file(whole)
            except (OutsideRoot, NoPlainFile) as error:
                if where:
                    raise error.within(where) from None
                outside = isinstance(error, OutsideRoot)
                self.left_out.add("image leads out of the folder" if outside else "image is no plain file", name)
                return ""
            if not found and not _PICTURES_NEEDED.get():
                self._absent.add(path)
                self.files.given.add(whole)
                return path
            if not found:
                self.left_out.add("image not in the folder", name)
                return ""
            self._found[path] = found + path[len(whole) :]
        return self._found[path]

    def image(self, image: ImageSource, name: str, **fields: Any) -> AnnotatedImage:
        """The image of that image_id, added when it is first named.

        Args:
          image: bytes, or a path that `file` gave.
          fields: further ones of `AnnotatedImage`; without `regions` it has none.
        """
        if name not in self.images:
            self.images[name] = AnnotatedImage(self.dataset, self.split, image, name, **{"regions": (), **fields})
        return self.images[name]

    def question(self, image: AnnotatedImage, key: str, **fields: Any) -> None:
        """Adds a question. Args: as `records.question_about`."""
        self.examples.append(record_of_question(image, key, **fields))

    def has_answer(self, answer: str, key: str, *, reason: str = "no answer") -> bool:
        """Whether a question has an answer; if not, its id is left out."""
        if not answer:
            self.left_out.add(reason, f"{self.dataset}/{key}")
        return bool(answer)

    def ask(self, path: str, name: str, key: str, *, answer: str, named: str = "", **fields: Any) -> None:
        """Adds a question with its image, which has no regions; neither without the image's file and an answer.

        Args:
          named: what the file is called where it is left out, else `name`.
        """
        if (file := self.file(path, named or name)) and self.has_answer(answer, key):
            self.question(self.image(file, name), key, answer=answer, **fields)

    def finding(self, image: AnnotatedImage, label: str, called: str, *, shown: bool, labels: tuple[str, ...]) -> None:
        """Adds the closed question whether a film shows a finding.

        Args:
          label: of the finding; it and the image_id make the question's key.
          called: how the question names it, e.g. "a pneumothorax".
          labels: everything that the film shows.
        """
        key, question = f"{label.lower().replace(' ', '_')}/{image.image_id}", f"Does this film show {called}?"
        says = {"question": question, "answer": "Yes" if shown else "No", "answer_type": "closed"}
        self.question(image, key, **says, content_type="Abnormality", labels=labels)

    def caption(self, image: AnnotatedImage, caption: str, *, kind: str = "", **fields: Any) -> None:
        """Adds an image's caption as an example: asked nothing, answered by the caption.

        Args:
          kind: stands in the id, of data sets that also ask questions.
        """
        key = f"{kind}/{image.image_id}" if kind else image.image_id
        self.question(image, key, question="", answer=caption, family="caption", task="caption", **fields)

    def finished(self) -> SourceSplit:
        """The split. What is left out is logged.

        Raises:
          DataError: as `GivenBoxes.judge`.
          MalformedRows: rows that `each` took are malformed.
        """
        self.boxes.judge()
        records: list[VQAExample | AnnotatedImage] = [*self.images.values(), *self.examples]
        masks = (region.mask.path for record in records for region in record.regions if region.mask)
        for image in (*(record.image for record in records), *masks):
            path = image.path if isinstance(image, UnnamedFile) else image
            if isinstance(path, str) and not {path, path.rpartition("#")[0]} & self.files.given:
                raise ValueError(f"{self.dataset} names a file that it has not got from SplitBuilder.file")
        for reason, given in self.boxes.left_out.items():
            for box in given:
                self.left_out.add(reason, box)
        reported = self.left_out.reported(f"{self.dataset} {self.split}")
        if self._absent:
            logger.warning(
                "%s %s: %d images are not in the folder; their questions are kept, without regions",
                self.dataset, self.split, len(self._absent),
            )  # fmt: skip
        faults: dict[str, list[str]] = {}
        for fault in self._malformed:
            faults.setdefault(fault.fault, []).append(str(fault).split("; ")[0])
        images, left_out = list(self.images.values()), reported | faults
        found = SourceSplit(self.examples, images, left_out, len(self.boxes.clipped), frozenset(faults))
        found = oriented_split(found, self.boxes.reading.orientation)
        if self._malformed:
            raise MalformedRows(_said(self._malformed), code=self._malformed[0].code, rest=found) from None
        return found

    def box(self, frame: tuple[int, int], numbers: Any, where: str, field: str) -> Box | None:
        """The box of a field that holds x, y, w, h; None where it has no place in its image, which is counted.

        Args:
          frame: width and height of the image, as `boxes.frame` says.

        Raises:
          DataError: it is not four numbers, or has no area.
        """
        return self.boxes.box(finite_numbers(numbers, 4, where, field), frame, where)


def _said(errors: Sequence[DataError]) -> str:
    """The first error as it is; of several also how many there are, by fault."""
    counts = Counter(error.fault for error in errors)
    more = [f"{fault} ({number})" for fault, number in counts.most_common()]
    in_all = f"; {len(errors):,} rows are malformed: {listed(more)}" if len(errors) > 1 else ""
    return f"{errors[0]}{in_all}; or leave out what is malformed: python -m data_pipelines.prepare … --allow-missing"


def row_object(row: Any, where: str) -> dict[str, Any]:
    """A row that is an object. Raises: DataError: it is something else, or what its reader refused."""
    if isinstance(row, DataError):
        raise row
    if not isinstance(row, dict):
        raise MalformedFile(
            f"{where}: is {shortened(row)}; expected an object with fields", fault="a row is not an object"
        )
    return row


def begin_split(
    card: DataCard, root: str, split: str, known: Collection[str] = (), reading: BoxReading = AS_FOUND
) -> SplitBuilder:
    """An empty split of a data set whose files are under `root`.

    Args:
      known: the splits; those of the card where none are given.
      reading: of its boxes.

    Raises:
      DataError: no such folder, or no such split.
    """
    require_folder(root)
    require_split(card.name, split, known or card.splits)
    return SplitBuilder(card.name, split, root, reading)


def require_split(dataset: str, split: str, known: Collection[str]) -> None:
    """Raises: DataError: `split` is none of the data set's."""
    if split not in known:
        raise UnknownName(f"{dataset}: no split {split!r}; choose one of {', '.join(known)}")


def answer_type_field(entry: dict[str, Any], where: str) -> AnswerType:
    """The `answer_type` field; the published files write "CLOSED", and twice "CLOSED ".

    Raises:
      DataError: anything but open and closed.
    """
    match text_field(entry, "answer_type", where).lower():
        case "open" | "closed" as answer_type:
            return answer_type
        case other:
            raise invalid_field(where, "answer_type", other, "expected OPEN or CLOSED")


def answer_type_by_answer(answer: str) -> AnswerType:
    """For data sets that do not say which questions are closed: those that are answered yes or no."""
    return "closed" if answer.lower() in ("yes", "no") else "open"

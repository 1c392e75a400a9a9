"""The language model's answers on disk, a line each, as they came: what a run that goes on does not ask again."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass

from pydantic import BaseModel, ValidationError

from data_pipelines.core.errors import DataError, MalformedFile
from data_pipelines.generation.templates import Kind

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """One prompt to a language model.

    Attributes:
      template, template_sha256: of the file that the prompt was made from.
      system, user: the prompt as it is sent.
    """

    model: str
    seed: int
    temperature: float
    max_tokens: int
    json_mode: bool
    template: str
    template_sha256: str
    system: str
    user: str

    @property
    def key(self) -> str:
        """SHA-256 of all of it. Whatever changes, also a word of the prompt, makes another request."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def prompt_sha256(self) -> str:
        """Of the system's message, a line break and the user's."""
        return hashlib.sha256(f"{self.system}\n{self.user}".encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Request(ChatRequest):
    """A prompt for questions of one kind about one caption."""

    caption_id: str
    kind: Kind


@dataclass(frozen=True)
class Completion:
    """What came back.

    Attributes:
      text: as the model wrote it.
      finish_reason: "stop", "length" where it was cut off, or another.
      not_taken: parameters of the request that the endpoint does not take, e.g. temperature, and which were not sent.
    """

    text: str
    finish_reason: str
    not_taken: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Of the text in UTF-8."""
        return hashlib.sha256(self.text.encode()).hexdigest()


class _Row(BaseModel, strict=True):
    """What is read of a line again."""

    key: str
    text: str
    finish_reason: str
    not_taken: list[str] = []  # pydantic copies it


class AnswerStore(contextlib.AbstractContextManager["AnswerStore"]):
    """A file of answers: request, prompt and answer, appended one by one. One process at a time holds it.

    Only the places of the answers are kept in memory, not the answers.
    """

    def __init__(self, path: str):
        """Opens or begins the file, and drops a last line that a kill cut short.

        Raises:
          DataError: another process holds the file, or a line in it is damaged.
        """
        self.path = path
        with contextlib.ExitStack() as opened:
            self._file = opened.enter_context(open(path, "a+b"))
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise DataError(
                    f"{path}: another run is writing it; wait for its end, or choose another place", code="file.in-use"
                ) from None
            self._places = self._read_places()
            opened.pop_all()  # held until __exit__

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def add(self, request: ChatRequest, answer: Completion) -> None:
        """Appends an answer; on return it survives the end of the process."""
        key = request.key
        row = {"key": key, **asdict(request), "prompt_sha256": request.prompt_sha256, **asdict(answer)}
        if not answer.not_taken:
            del row["not_taken"]
        self._file.seek(0, os.SEEK_END)
        place = self._file.tell()
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        self._places[key] = place

    def get(self, key: str) -> Completion:
        """The answer to a request. Raises KeyError."""
        self._file.seek(self._places[key])
        row = _Row.model_validate_json(self._file.readline())
        return Completion(row.text, row.finish_reason, tuple(row.not_taken))

    def _read_places(self) -> dict[str, int]:
        places: dict[str, int] = {}
        self._file.seek(0)
        place = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                logger.warning(
                    "%s: line %d was cut short and is dropped; it will be requested again", self.path, number
                )
                self._file.truncate(place)
                break
            try:
                places.setdefault(_Row.model_validate_json(line).key, place)
            except ValidationError:
                raise MalformedFile(
                    f"{self.path}: line {number} is damaged; remove that line, and it is requested again"
                ) from None
            place += len(line)
        return places

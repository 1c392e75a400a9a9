"""Prompt templates: an editable text file for each kind of question, in `qa_templates/` or elsewhere.

A file has two parts, each begun by a line of its own: `[system]` and `[user]`. `$caption`, `$context`, `$count`,
`$answers` and `$language` are filled in; a dollar sign is written `$$`.
"""

import hashlib
import re
import string
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal, get_args

from data_pipelines.core.errors import DataError, MalformedFile, UnreadableFile
from data_pipelines.core.seeding import rng_for
from data_pipelines.generation.captions import Caption

Kind = Literal["open", "closed", "choice", "image", "literature", "conversation"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# What may stand in every template.
_PLACEHOLDERS = {"caption", "context", "count", "language"}
_PARTS = re.compile(r"\A\s*\[system\]\n(?P<system>.*?)^\[user\]\n(?P<user>.*)\Z", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt to be filled in.

    Attributes:
      name: of its file, e.g. "open.txt".
      sha256: of its file's text, hexadecimal.
    """

    name: str
    sha256: str
    system: string.Template
    user: string.Template


def load_templates(kinds: Sequence[Kind], folder: str | None) -> dict[Kind, PromptTemplate]:
    """The templates of these kinds, from `folder`, or those of the package.

    Raises:
      DataError: a file that is missing, has not the two parts, lacks `$caption`, or names another placeholder.
    """
    shelf = resources.files("data_pipelines.generation") / "qa_templates" if folder is None else Path(folder)
    templates: dict[Kind, PromptTemplate] = {}
    for kind in kinds:
        allowed = _PLACEHOLDERS | ({"answers"} if kind == "closed" else set())
        original = f"data_pipelines/generation/qa_templates/{kind}.txt"
        templates[kind] = read_template(shelf / f"{kind}.txt", original, allowed=allowed, needed=("caption",))
    return templates


def read_template(
    file: Traversable, original: str, *, allowed: Collection[str], needed: Sequence[str]
) -> PromptTemplate:
    """A template of the parts [system] and [user].

    Args:
      original: the package's own file, which a user may copy.
      allowed: the placeholders that may stand in it.
      needed: those that must stand in [user].

    Raises:
      DataError: it cannot be read, has not the two parts, lacks a placeholder, or names another.
    """

    def malformed(fault: str) -> DataError:
        return MalformedFile(f"{file}: {fault}")

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UnreadableFile(f"{file}: cannot be read as UTF-8 text; copy {original} and edit it") from None
    parts = _PARTS.match(text)
    if parts is None:
        raise malformed("has not the two parts; begin it with a line [system], then a line [user]")
    system, user = (string.Template(parts[part].strip()) for part in ("system", "user"))
    for part in (system, user):
        if not part.is_valid():
            raise malformed("has a dollar sign that begins no placeholder; write it $$")
        for placeholder in part.get_identifiers():
            if placeholder not in allowed:
                names = ", ".join(f"${known}" for known in sorted(allowed))
                raise malformed(f"no placeholder ${placeholder}; choose among {names}, or write $$ for $")
    for name in needed:
        if name not in user.get_identifiers():
            raise malformed(f"the part [user] lacks ${name}; put it where the {name} should stand")
    return PromptTemplate(file.name, hashlib.sha256(text.encode()).hexdigest(), system, user)


def render(template: PromptTemplate, caption: Caption, *, count: int, language: str, seed: int) -> tuple[str, str]:
    """The system's and the user's message.

    Args:
      count: questions to ask for, or turns of a conversation.
      language: a code, e.g. "en".
      seed: of the wanted answers of closed questions: as many yes as no, an odd one drawn by seed and caption.
    """
    first, second = rng_for(seed, "closed answers", caption.id).permutation(["yes", "no"])
    values = {
        "caption": caption.caption,
        "context": caption.context or "none",
        "count": str(count),
        "language": language,
        "answers": ", ".join(str(first if number % 2 == 0 else second) for number in range(count)),
    }
    return template.system.substitute(values), template.user.substitute(values)

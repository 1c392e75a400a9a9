"""What is found by a short name, and imported only when it is asked for."""

import difflib
import importlib
from collections.abc import Collection, Iterator
from typing import Generic, TypeVar

from data_pipelines.core.errors import UnknownName, UserError

T = TypeVar("T")


def nearest(name: str, known: Collection[str], *, listed: str = "") -> str:
    """The remedy for a name that is not among the known ones: the one that was probably meant, or all of them.

    Args:
      listed: says in short what there is, where the known names are too many.
    """
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {listed or ', '.join(known)}"


class Registry(Generic[T]):
    """Entries by name, in their order.

    Attributes:
      entries: name → the entry, or until it is asked for its place, `MODULE:EXPORT`. A class is exported for its only
        instance.
    """

    def __init__(self, what: str, error: type[UserError] = UnknownName, /, **places: str):
        """Starts with entries that are not imported yet.

        Args:
          what: a name is of, for messages, e.g. "data set".
          error: that an unknown name raises.
          places: of the entries.
        """
        self.entries: dict[str, T | str] = {**places}
        self._what = what
        self._error = error

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def register(self, name: str, entry: T) -> None:
        """Adds an entry. Raises ValueError where the name is taken."""
        if name in self.entries:
            raise ValueError(f"the {self._what} {name!r} is registered already")
        self.entries[name] = entry

    def get(self, name: str, *, setting: str) -> T:
        """The entry of that name.

        Args:
          setting: what gave it, e.g. "--data", for the message.

        Raises:
          UserError: there is none; names the nearest.
        """
        if name not in self.entries:
            raise self._error(f"{setting}: no {self._what} {name!r}; {nearest(name, self.entries)}")
        found = self.entries[name]
        if isinstance(found, str):
            module, _, exported = found.partition(":")
            export = getattr(importlib.import_module(module), exported)
            found = self.entries[name] = export() if isinstance(export, type) else export
        return found

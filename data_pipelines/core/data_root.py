"""The folder of a data set, and the files below it that its annotation files name.

An annotation file comes from elsewhere, so it names files below the data set's folder and no others: a name that is
absolute or has ".." in it leads nowhere, and neither does a symbolic link that leaves the folder. Links that stay
inside are followed, and so are those into what belongs to the data set though it lies elsewhere:

  - folders that a link at the top of the root leads to (`imgs -> /data/slake/imgs`), and those in which annotation
    files really lie that are linked there (`train.json -> /data/slake/train.json`): no annotation file makes links,
    whoever put the root together made these, and sees them with `ls -l`;
  - the blobs of the repository, where the root is, or is in, a snapshot in Hugging Face's cache: it holds nothing else.

So a link deeper down that leads elsewhere is allowed by one at the top to the folder that it leads to. A folder that
contains the root is never part of it.

Names are found in whatever way they are written: composed or decomposed (NFC, NFD: macOS writes the latter), and with
the backslashes of Windows.
"""

import contextlib
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.core.errors import DataError

# Whose names are relative to where they really lie.
_ANNOTATION_FILES = (".json", ".jsonl", ".csv", ".csv.gz", ".tsv", ".txt", ".xml", ".parquet", ".xlsx", ".pkl")
_OUTSIDE = "a name leads out of the folder"


class OutsideRoot(DataError, code="file.outside-root"):
    """A file is named that does not belong to the data set."""


class NoPlainFile(DataError, code="file.not-plain"):
    """What is named is a device, a pipe or a socket."""


def spelled_alike(name: str) -> str:
    """The name as all spellings of it have it: composed (NFC), with slashes."""
    return unicodedata.normalize("NFC", name).replace("\\", "/")


class DataRoot:
    """What belongs to a data set, and looking it up; the files do not come and go meanwhile.

    Attributes:
      given: the paths that were found.
    """

    def __init__(self, root: str):
        self.root = root
        self._top = os.path.join(root, "")
        self._real = os.path.realpath(root)
        self._linked: tuple[str, ...] | None = None
        self.given: set[str] = set()
        self._folders: set[str] = set()
        self._listings: dict[str, dict[str, str]] = {}

    def file(self, path: str) -> str:
        """The path of a file that an annotation file names, spelled as it lies there; "" where there is none.

        Args:
          path: the root with the name behind it, as `os.path.join` puts it together.

        Raises:
          OutsideRoot: it leads out of what belongs to the data set; nothing of it has been read.
          NoPlainFile: it is a device, a pipe or a socket.
        """
        if not path:
            return ""
        inner = path[len(self._top) :] if path.startswith(self._top) else os.sep
        if os.path.isabs(inner) or os.pardir in re.split(r"[/\\]", inner):
            raise OutsideRoot(
                f"{path}: is not below {self.root}; name a file below the data set's folder", fault=_OUTSIDE
            )
        found = next(filter(None, map(self._spelled, dict.fromkeys((inner, inner.replace("\\", "/"))))), "")
        if not found or not self._is_plain(found):
            return ""
        self.given.add(found)
        return found

    def layout_file(self, path: str) -> str:
        """As `file`, of one that the data set's layout names: at the top of the root it may be a link to anywhere."""
        at_top = os.path.dirname(path) == os.path.dirname(self._top)
        return path if at_top and os.path.isfile(path) else self.file(path)

    def _spelled(self, inner: str) -> str:
        """The path of the file that some spelling of `inner` names, "" where there is none."""
        path = self._top + inner
        if os.path.lexists(path):
            return path
        folder = self.root
        for part in inner.split("/"):
            path = os.path.join(folder, part)
            if not os.path.lexists(path):
                known = self._listing(folder).get(unicodedata.normalize("NFC", part))
                if known is None:
                    return ""
                path = os.path.join(folder, known)
            folder = path
        return path

    def _listing(self, folder: str) -> dict[str, str]:
        """Composed name → name of what is in a folder of the data set."""
        if folder not in self._listings:
            self._require_inside(folder)
            names: list[str] = []
            with contextlib.suppress(OSError):  # not a folder, or not to be read
                names = sorted(os.listdir(folder))
            self._listings[folder] = {unicodedata.normalize("NFC", name): name for name in names}
        return self._listings[folder]

    def _is_plain(self, path: str) -> bool:
        """Whether it is a file, of the data set; not if it is a folder, or a link to nothing."""
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            self._require_inside(path)
            if not os.path.exists(path):
                return False
            mode = os.stat(path).st_mode
        else:
            # Of many files in one folder the folder is looked at once.
            folder = os.path.dirname(path)
            if folder not in self._folders:
                self._require_inside(folder)
                self._folders.add(folder)
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise NoPlainFile(
                f"{path}: is a device, a pipe or a socket; replace it by a file", fault="a device or a pipe is named"
            )
        return stat.S_ISREG(mode)

    def _require_inside(self, path: str) -> None:
        real = os.path.realpath(path)
        if _below(real, self._real):
            return
        if self._linked is None:
            self._linked = tuple(self._belonging())
        if not any(_below(real, folder) for folder in self._linked):
            raise OutsideRoot(
                f"{path}: is a link that leads out of {self.root}, to {real}; copy the file, or make a link to its "
                f"folder at the top of {self.root}",
                fault=_OUTSIDE,
            )

    def _belonging(self) -> Iterator[str]:
        """The real paths of folders elsewhere that belong to the data set."""
        for snapshot in (Path(self._real), *Path(self._real).parents):
            blobs = snapshot.parent.parent / "blobs"
            if snapshot.parent.name == "snapshots" and blobs.is_dir():
                yield os.path.realpath(blobs)
        with os.scandir(self._real) as entries:
            links = sorted(entry.path for entry in entries if entry.is_symlink())
        for link in links:
            target = os.path.realpath(link)
            if not os.path.isdir(target):
                if not link.lower().endswith(_ANNOTATION_FILES):
                    continue
                target = os.path.dirname(target)
            if not _below(self._real, target):
                yield target


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))

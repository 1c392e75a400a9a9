"""Append logs: files that grow line by line, in a folder that may be a bucket, whose objects cannot be appended to."""

import logging
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from data_pipelines.core.errors import reason_of
from data_pipelines.core.paths import is_remote

logger = logging.getLogger(__name__)

UPLOAD_EVERY = 30.0  # seconds


class AppendLogs:
    """Files below a folder. In a local one they are written in place, and there is nothing to do.

    For a remote one they are written to a temporary folder of this machine. Those that changed are uploaded whole: in
    the background at most every `UPLOAD_EVERY` seconds, and at `sync` and `close`. A kill loses the rows since the last
    upload, here those since the last checkpoint at most, which the resumed run writes again.

    Attributes:
      local: where to write them.
      remote: whether that is another folder than theirs.
    """

    def __init__(self, folder: Path, *, continued: Sequence[str] = ()):
        """Prepares the folder.

        Args:
          continued: names of files that are read and appended to, if they are there.
        """
        self.folder = self.local = folder
        self.remote = is_remote(folder)
        self._thread: ThreadPoolExecutor | None = None
        if not self.remote:
            return
        self.local = Path(tempfile.mkdtemp(prefix="rllava-"))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="upload")
        self._under_way: Future[bool] | None = None
        self._uploaded: dict[str, tuple[int, int]] = {}
        self._since = time.monotonic()
        for name in continued:
            if (folder / name).is_file():
                (self.local / name).write_bytes((folder / name).read_bytes())

    def grew(self) -> None:
        """Says that files have grown. Does not wait."""
        if self._thread is None or time.monotonic() - self._since < UPLOAD_EVERY:
            return
        if self._under_way is None or self._under_way.done():
            self._since = time.monotonic()
            self._under_way = self._thread.submit(self._upload)

    def sync(self) -> bool:
        """Returns when all that has been written is uploaded, or False, after a warning, if it could not be."""
        if self._thread is None:
            return True
        self._since = time.monotonic()
        return self._thread.submit(self._upload).result()

    def close(self) -> None:
        """Uploads the rest and removes the temporary folder, which stays if the bucket could not be reached."""
        if self._thread is None:
            return
        complete = self.sync()
        self._thread.shutdown()
        if complete:
            shutil.rmtree(self.local, ignore_errors=True)
        else:
            logger.warning("%s: its newest rows are only in %s", self.folder, self.local)

    def _upload(self) -> bool:
        for path in sorted(self.local.rglob("*")):
            if not path.is_file():
                continue
            name = path.relative_to(self.local).as_posix()
            status = path.stat()
            state = (status.st_size, status.st_mtime_ns)
            if self._uploaded.get(name) == state:
                continue
            try:
                (self.folder / name).write_bytes(path.read_bytes())
            except Exception as error:  # gcsfs and aiohttp raise their own; training goes on, and the next time may do
                place = self.folder / name
                logger.warning("%s: could not be uploaded (%s); trying again later", place, reason_of(error))
                return False
            self._uploaded[name] = state
        return True

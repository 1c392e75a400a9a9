"""Folders as command lines and configurations name them: on this machine, or in Google Cloud Storage (gs://).

A local path is a `pathlib.Path`. A gs:// path is an `etils.epath.Path`, which has the same methods, served by gcsfs;
Orbax and TensorStore read and write the arrays below it themselves. Two of pathlib's ways are traps there:
`pathlib.Path("gs://bucket")` is the local folder `gs:/bucket`, and so is `.absolute()` of either kind. Whatever may be
remote is made by `path_of` and made absolute by `absolute`.
"""

import functools
import importlib.util
import logging
import os
import re
from pathlib import Path

from etils import epath

from data_pipelines.core.errors import ConfigError, MissingPackage, UnreadableFile, reason_of
from data_pipelines.core.optional_packages import install

_REMOTE = "gs://"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def path_of(name: str | os.PathLike[str]) -> Path:
    """The file or folder of that name; nothing is read.

    Returns:
      A `pathlib.Path`, or for gs:// an `epath.Path`, which stands in for one.

    Raises:
      ConfigError: a gs:// path without a bucket, or without the package that reads it; another scheme.
    """
    text = os.fspath(name)
    if not text.startswith(_REMOTE):
        if _SCHEME.match(text):
            raise ConfigError(
                f"{text}: is neither a local path nor gs://BUCKET/FOLDER; write one of these", code="file.invalid-path"
            )
        return Path(text)
    if not _bucket(text):
        raise ConfigError(f"{text}: names no bucket; write gs://BUCKET/FOLDER", code="file.invalid-path")
    _prepare_remote()
    return epath.Path(text)


def expanded(name: str) -> str:
    """The name with the home folder in place of a leading ~, which shells leave alone in `--option=~/x`.

    Raises:
      ValueError: there is no such user. A file that is really so called is written ./~NAME.
    """
    path = os.path.expanduser(name)
    if path.startswith("~"):
        raise ValueError(
            f"there is no home folder of {name.partition('/')[0]!r}; write ./{name} if it is a file's name"
        )
    return path


def local_path(name: str | os.PathLike[str], *, what: str) -> Path:
    """The local file or folder of that name.

    Args:
      what: the option or setting that names it, for the message.

    Raises:
      ConfigError: it is a remote path.
    """
    if is_remote(name):
        raise ConfigError(
            f"{what} {name}: is to be a local path; copy with: gcloud storage cp -r FROM TO", code="file.invalid-path"
        )
    return path_of(name)


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is in a bucket."""
    return os.fspath(path).startswith(_REMOTE)


def absolute(path: Path) -> Path:
    """The path from its root: gs:// paths begin there already."""
    return path if is_remote(path) else path.absolute()


def require_bucket(path: Path) -> None:
    """Checks that the bucket of a remote path is there for this user: its content would else merely seem absent.

    Raises:
      ConfigError: it is not.
    """
    if not is_remote(path):
        return
    bucket = _bucket(os.fspath(path))
    import gcsfs  # of the extra `gcs`

    try:
        # What Orbax asks too, to learn whether the bucket has real folders.
        gcsfs.GCSFileSystem().call("GET", f"b/{bucket}")
    except Exception as error:  # gcsfs, aiohttp and google-auth each raise their own
        raise UnreadableFile(
            f"{path}: the bucket {bucket} cannot be opened ({reason_of(error)}); create it, or log in "
            "(gcloud auth application-default login) as somebody with the roles storage.objectUser and "
            "storage.legacyBucketReader on it"
        ) from None


def _bucket(text: str) -> str:
    return text.removeprefix(_REMOTE).partition("/")[0]


@functools.cache
def _prepare_remote() -> None:
    if importlib.util.find_spec("gcsfs") is None:
        raise MissingPackage(f"gs:// paths need the package gcsfs: {install('gcs')}")
    import fsspec.config

    # They log each file that is opened, and what goes wrong, traces and all, before they raise it.
    logging.getLogger("fsspec").setLevel(logging.WARNING)
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    # epath takes TensorFlow's file system where TensorFlow happens to be installed: one that nobody tests here.
    os.environ.setdefault("EPATH_USE_TF", "0")
    # A folder's listing, once seen, would hide what other hosts write into it afterwards.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)

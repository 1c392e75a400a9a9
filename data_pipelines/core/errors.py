"""The errors that a user can fix; each says in one line which file and field, the value, and the remedy."""

from __future__ import annotations


class ConfigError(ValueError):
    """A setting is wrong; the message names the file or override, the key, the value and the remedy, in one line."""


class DataError(ValueError):
    """Something is wrong with the user's data; the message names the file, the field, the value and the remedy."""


class ImageError(DataError):
    """One image cannot be read: the only data error that a long run may be told to skip."""

"""What a test says of an expected error: its class, its code, and the fields or values that its line names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from data_pipelines.core.errors import UserError


@contextlib.contextmanager
def refused(kind: type[UserError], code: str, *named: str) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """Asserts that the block raises `kind` with this code, in one line that contains everything in `named`.

    `named` holds what a user searches for (a file's name, a field, a value, an option), never the wording.
    """
    with pytest.raises(kind) as caught:
        yield caught
    message = str(caught.value)
    assert caught.value.code == code, f"code {caught.value.code!r} of: {message}"
    assert "\n" not in message
    for part in named:
        assert part in message, f"{part!r} is not named in: {message}"


def assert_refused(printed: str, code: str | None, *named: str) -> None:
    """Asserts that a command's standard error ends with one error line, with this code, that names all of `named`.

    `code` is None where the error comes from elsewhere, and its own test holds the code.
    """
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert errors == printed.splitlines()[-1:], printed
    assert code is None or errors[0].endswith(f" [{code}]"), errors[0]
    for part in named:
        assert part in errors[0], f"{part!r} is not named in: {errors[0]}"

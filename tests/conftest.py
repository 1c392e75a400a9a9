"""Set up for every test: eight host devices, no accelerator, and the real data sets where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

# JAX reads both when it is first imported, which no test has done yet.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()

import pytest

_DATA = Path(os.environ.get("RLLAVA_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def slake_root() -> str:
    """Folder of the published SLAKE files."""
    return _published(_DATA / "slake", "train.json")


@pytest.fixture(scope="session")
def vqa_rad_root() -> str:
    """Folder of the published VQA-RAD files."""
    return _published(_DATA / "vqa_rad", "VQA_RAD Dataset Public.json")


def _published(root: Path, file: str) -> str:
    if not (root / file).is_file():
        message = f"needs the published data: no {file!r} in {root} (set RLLAVA_DATA to the folder above it)"
        if os.environ.get("RLLAVA_REQUIRE_DATA"):
            pytest.fail(message)
        pytest.skip(message)
    return str(root)

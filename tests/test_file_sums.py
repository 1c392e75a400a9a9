"""The small files of a checkpoint decide its answers as its numbers do: a flipped bit in one is found."""

import json

import pytest
from calibrations import CALIBRATION
from expected_errors import refused
from flipped_bits import SUMS, files_of, flip, made_old
from test_checkpoint import ASSETS, abstract, arrays, numbers, saved

from rllava_jax.checkpoint.errors import CheckpointError
from rllava_jax.checkpoint.manager import Checkpoints
from rllava_jax.config import MeshConfig
from rllava_jax.inference.calibration import stored_calibration, write_calibration
from rllava_jax.model.sharding import make_mesh

MARK = "commit_success.txt"  # of Orbax, whose being there says all that it says
FILES = {**ASSETS, "conversion.json": b"{}\n", "preprocessing.json": b'{"image_size": 112}'}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sums") / "c"
    saved(folder, [1], assets=FILES)
    write_calibration(folder / "1", CALIBRATION)
    return folder / "1"


@pytest.fixture
def mended(checkpoint):
    """The checkpoint, whose assets are put back afterwards."""
    before = {path: path.read_bytes() for path in (checkpoint / "assets").iterdir()}
    record = checkpoint / "_CHECKPOINT_METADATA"
    before[record] = record.read_bytes()
    yield checkpoint
    for path in (checkpoint / "assets").iterdir():
        path.unlink()
    for path, content in before.items():
        path.write_bytes(content)


def assets(checkpoint):
    with Checkpoints(checkpoint.parent, read_only=True) as checkpoints:
        return checkpoints.assets(int(checkpoint.name))


def test_assets_come_back_without_their_sums_which_sha256sum_reads(checkpoint):
    assert {name: content for name, content in assets(checkpoint).items() if name != "calibration.json"} == FILES
    lines = (checkpoint / "assets" / SUMS).read_text().splitlines()
    assert [line[64:] for line in lines] == [f"  {name}" for name in sorted(FILES)]


def test_a_flipped_bit_in_any_asset_is_found_and_the_file_named(mended):
    names = files_of(mended / "assets")
    assert {*FILES, SUMS, "calibration.json"} == set(names) - {MARK}
    for name in names:
        if name == MARK:
            continue
        path = mended / "assets" / name
        content = path.read_bytes()
        for bit, at in enumerate((0, 0.2, 0.4, 0.5, 0.6, 0.8, 0.99, 1)):
            flip(path, at=at, bit=bit)
            named = "assets/" if name == SUMS else f"assets/{name}"  # in the list of sums a line is another file's
            with refused(CheckpointError, "checkpoint.damaged", named):
                assets(mended)
                stored_calibration(mended)
            path.write_bytes(content)
    assert stored_calibration(mended) == CALIBRATION


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda folder: (folder / "preprocessing.json").unlink(), "preprocessing.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer.json"),
        (lambda folder: (folder / SUMS).unlink(), SUMS),
        (lambda folder: (folder / SUMS).write_text(""), "config.json"),
    ],
)
def test_a_file_that_is_missing_or_was_never_written_is_named(mended, change, named):
    change(mended / "assets")
    with refused(CheckpointError, "checkpoint.damaged", f"assets/{named}"):
        assets(mended)


def test_a_run_does_not_go_on_from_a_checkpoint_whose_assets_are_damaged(tmp_path, caplog):
    saved(tmp_path / "c", [1, 2])
    flip(tmp_path / "c" / "2" / "assets" / "tokenizer.model")
    shapes = [abstract(tree) for tree in arrays(1, make_mesh(MeshConfig()))]
    with Checkpoints(tmp_path / "c", keep_last=10) as checkpoints:
        assert checkpoints.restore_newest(*shapes, numbers())[0] == 1
    assert "assets/tokenizer.model" in caplog.text


def test_a_checkpoint_of_before_is_read_and_one_line_says_so(mended, caplog):
    made_old(mended)
    for _ in range(2):
        assert assets(mended)["config.json"] == FILES["config.json"]
    (said,) = (record.getMessage() for record in caplog.records if record.name.startswith("rllava"))
    assert said.startswith(f"{mended}: was written before there were checksums")
    assert stored_calibration(mended) == CALIBRATION


def test_a_sealed_file_has_the_sum_of_its_fields(checkpoint):
    fields = json.loads((checkpoint / "assets" / "calibration.json").read_text())
    assert list(fields)[-1] == "sha256"

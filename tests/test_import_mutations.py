"""Published archives that are not what they seem: refused in one line, before work of the size that they declare."""

import io
import shutil
import zipfile

import numpy as np
import pytest
from expected_errors import assert_refused
from golden_model import GOLDEN
from starting_models import small_tokenizer

from rllava_jax import convert

NPZ = GOLDEN / "paligemma1_tiny.npz"
KERNEL = "params/img/head/kernel.npy"


def rewritten(path, change):
    """The archive with `change(members)` made to its list of names and contents."""
    with zipfile.ZipFile(NPZ) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in change(members):
            archive.writestr(name, content)


def of_kernel(change):
    return lambda members: [(name, change(content) if name == KERNEL else content) for name, content in members]


def saved(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def with_number(value):
    def change(content):
        array = np.load(io.BytesIO(content)).copy()
        array[1, 2] = value
        return saved(array)

    return change


def declared(shape):
    def change(content):
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )  # and then no more than there was
        return stream.getvalue() + content[128:]

    return change


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    small_tokenizer(folder)
    return folder / "tokenizer.model"


def imported(path, tmp_path, tokenizer, capsys):
    assert convert.main(["import", str(path), str(tmp_path / "out"), "--tokenizer", str(tokenizer)]) == 2
    assert not (tmp_path / "out").exists()
    return capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (of_kernel(lambda content: content + b"more"), KERNEL),
        (of_kernel(lambda content: content[:-4]), KERNEL),
        (of_kernel(declared((10**9, 10**9))), KERNEL),
        (lambda members: [*members, next(m for m in members if m[0] == KERNEL)], KERNEL.removesuffix(".npy")),
        (lambda members: [*members, (KERNEL.removesuffix(".npy"), b"")], KERNEL.removesuffix(".npy")),
    ],
    ids=["trailing bytes", "too few bytes", "a huge shape", "a doubled member", "a member of two spellings"],
)
def test_a_member_that_is_not_what_it_declares_is_named(tmp_path, tokenizer, capsys, change, named):
    rewritten(tmp_path / "weights.npz", change)
    error = imported(tmp_path / "weights.npz", tmp_path, tokenizer, capsys)
    assert_refused(error, "file.malformed", "weights.npz", named)


@pytest.mark.parametrize("change", [lambda content: content + b"\0more", lambda content: b"before" + content])
def test_bytes_beside_the_archive_are_refused(tmp_path, tokenizer, capsys, change):
    (tmp_path / "weights.npz").write_bytes(change(NPZ.read_bytes()))
    error = imported(tmp_path / "weights.npz", tmp_path, tokenizer, capsys)
    assert_refused(error, "file.malformed", "weights.npz")


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_is_named(tmp_path, capsys, value):
    from tiny_models import tokenizer_file

    (tmp_path / "tokenizer.model").write_bytes(tokenizer_file())
    rewritten(tmp_path / "weights.npz", of_kernel(with_number(value)))
    error = imported(tmp_path / "weights.npz", tmp_path, tmp_path / "tokenizer.model", capsys)
    assert_refused(error, "file.malformed", "weights.npz", "img/head/kernel[1, 2]", str(value))


def test_the_archive_itself_is_taken_as_far_as_its_tokenizer(tmp_path, tokenizer, capsys):
    shutil.copy(NPZ, tmp_path / "weights.npz")
    assert_refused(imported(tmp_path / "weights.npz", tmp_path, tokenizer, capsys), "checkpoint.mismatch", "ids")

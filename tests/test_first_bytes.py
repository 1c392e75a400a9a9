"""Files that are not what their names say are named for what they are; text in UTF-16 and in gzip is read."""

import codecs
import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines.core.errors import UserError
from data_pipelines.core.json_files import json_lines, read_json, read_objects
from data_pipelines.core.text_files import lines_of, read_rows
from data_pipelines.images.reading import decode, decode_grey
from data_pipelines.text.tokenizer import Tokenizer
from rllava_jax.evaluation.answer_files import read_answers
from rllava_jax.evaluation.predictions import read_predictions
from rllava_jax.evaluation.references import from_file
from rllava_jax.evaluation.trust import boxes_file
from rllava_jax.interop.big_vision import read_npz
from rllava_jax.interop.huggingface import Tensors

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0a1b2c3d" * 8 + b"\nsize 5846000000\n"
ROWS = [{"id": 1, "answer": "yes", "question": "Müßte?"}, {"id": 2, "answer": "left", "question": "q"}]


def _tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.json"))
    return file.getvalue()


def _zip():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.json", "{}")
    return file.getvalue()


# What a file is → its bytes, and what must be named.
DISGUISES = {
    "pointer": (POINTER, ["Git LFS", "git lfs pull"]),
    "empty": (b"", ["empty"]),
    "html": (b"\n<!DOCTYPE html><html><body>401</body></html>", ["HTML"]),
    "HTML": (b"<HTML><head>", ["HTML"]),
    "hub": (b"Entry not found", ["server"]),
    "storage": (b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>NoSuchKey</Code></Error>", ["server"]),
    "tar": (_tar(), ["tar archive", "unpack"]),
    "tar.gz": (gzip.compress(_tar()), ["tar archive", "unpack"]),
    "zip": (_zip(), ["zip", "unpack"]),
    "xz": (b"\xfd7zXZ\x00\x00\x04", ["xz"]),
    "pdf": (b"%PDF-1.7\n", ["PDF"]),
    "parquet": (b"PAR1\x15\x04", ["parquet"]),
    "gguf": (b"GGUF\x03\x00\x00\x00", ["GGUF"]),
}
TEXT_DISGUISES = {
    "png": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", ["PNG"]),
    "utf-16 without a mark": (('{"id": "1"}\n' * 9).encode("utf-16-le"), ["UTF-16"]),
    "binary": (b'{"a"\x00\x01\x02\x03' + bytes(range(60, 160)), ["binary"]),
}
JSON_READERS = {
    "json_lines": lambda path: [row for _, row in json_lines(str(path))],
    "read_objects": lambda path: [row for _, row in read_objects(str(path))],
    "read_json": lambda path: read_json(str(path)),
    "references": lambda path: from_file(path),
    "answers": lambda path: read_answers(path, lists=False),
    "predictions": read_predictions,
}
TEXT_READERS = JSON_READERS | {
    "csv": lambda path: list(read_rows(str(path), ("id",))),
    "lines": lambda path: list(lines_of(str(path))),
}


def _tensors(path):
    (path.parent / "model.safetensors").write_bytes(path.read_bytes())
    return Tensors(path.parent)


BINARY_READERS = {
    "image": lambda path: decode(str(path), "x"),
    "image bytes": lambda path: decode(path.read_bytes(), "x"),
    "mask": lambda path: decode_grey(str(path), "x"),
    "tokenizer": lambda path: Tokenizer(path.read_bytes(), str(path)),
    "safetensors": _tensors,
    "npz": lambda path: read_npz(path, lambda *_: {}),
}
BOXES = {"trust boxes": boxes_file.read}


@pytest.mark.parametrize("reader", TEXT_READERS | BINARY_READERS | BOXES)
def test_every_reader_names_what_a_file_is_instead(tmp_path, reader):
    kinds = DISGUISES | (TEXT_DISGUISES if reader in TEXT_READERS else {})
    for kind, (content, named) in kinds.items():
        if (reader, kind) == ("npz", "zip"):
            continue  # which it is; its members are told of
        path = tmp_path / "f"
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            (TEXT_READERS | BINARY_READERS | BOXES)[reader](path)
        line = str(caught.value)
        assert "\n" not in line
        for part in (*named, ""):
            assert part in line, (kind, line)


@pytest.mark.parametrize("reader", JSON_READERS)
@pytest.mark.parametrize("content", ["id,answer\n1,yes\n", '"id","answer"\n"1","yes"\n', "id;answer\n", "id\tanswer\n"])
def test_csv_is_named_where_json_is_meant(tmp_path, reader, content):
    (tmp_path / "f").write_text(content)
    with refused(UserError, "file.malformed", "CSV", "to_json"):
        JSON_READERS[reader](tmp_path / "f")


def test_json_is_named_where_csv_is_meant(tmp_path):
    (tmp_path / "f").write_text(json.dumps(ROWS))
    with refused(UserError, "file.malformed", "JSON, not CSV"):
        TEXT_READERS["csv"](tmp_path / "f")


def _encodings(text):
    yield from (codecs.BOM_UTF8 + text.encode(), text.encode("utf-16"), text.encode("utf-32"))
    yield codecs.BOM_UTF16_BE + text.encode("utf-16-be")
    yield from (gzip.compress(text.encode()), gzip.compress(text.encode("utf-16")))


@pytest.mark.parametrize("reader", ["json_lines", "read_objects", "read_json", "references", "answers", "csv", "lines"])
def test_text_of_other_encodings_and_in_gzip_is_read_as_the_same(tmp_path, reader):
    text = {
        "csv": "id,question\r\n1,Müßte?\r\n2,q\r\n",
        "read_objects": json.dumps(ROWS, ensure_ascii=False),
        "read_json": json.dumps(ROWS, ensure_ascii=False),
    }.get(reader, "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in ROWS))
    path = tmp_path / "f"
    path.write_text(text, encoding="utf-8", newline="")
    meant = TEXT_READERS[reader](path)
    assert "Müßte?" in str(meant)
    for content in _encodings(text):
        path.write_bytes(content)
        assert TEXT_READERS[reader](path) == meant


@pytest.mark.parametrize("reader", ["json_lines", "read_json", "answers", "csv"])
def test_a_small_file_that_unpacks_to_much_is_refused(tmp_path, reader, monkeypatch):
    monkeypatch.setattr("data_pipelines.core.text_files._ALWAYS_ALLOWED", 2**16)
    (tmp_path / "f").write_bytes(gzip.compress((b"id\n" if reader == "csv" else b'{"id": "') + b"a" * 2**24))
    with refused(UserError, "file.malformed", "MiB"):
        TEXT_READERS[reader](tmp_path / "f")


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:30] + b"\x00\xff\x00" + b[33:]])
@pytest.mark.parametrize("reader", ["json_lines", "read_json", "answers", "csv"])
def test_a_damaged_gzip_file_is_one_line(tmp_path, reader, damage):
    rng = np.random.default_rng(0)
    rows = [{"id": n, "answer": rng.bytes(20).hex()} for n in range(200)]
    (tmp_path / "f").write_bytes(damage(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())))
    with refused(UserError, "file.malformed", str(tmp_path / "f")):
        TEXT_READERS[reader](tmp_path / "f")


def test_what_is_meant_is_no_disguise(tmp_path):
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    assert decode(str(tmp_path / "a.png"), "x").shape == (2, 3, 3)
    for text in ('"one, two"', "1", "[]", "{}"):
        Path(tmp_path / "f").write_text(text)
        assert read_json(str(tmp_path / "f")) == json.loads(text)

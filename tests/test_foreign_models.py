"""Weights that cannot be imported are named for what they are, by `convert import` and by `init.checkpoint`."""

import json
import os
from pathlib import Path

import pytest
from expected_errors import refused

from rllava_jax.checkpoint.errors import CheckpointError
from rllava_jax.checkpoint.manager import find_checkpoint
from rllava_jax.interop.import_checkpoint import import_checkpoint

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5846000000\n"


def json_of(**fields):
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"adapter_config.json": json_of(base_model_name_or_path="owner/base"), "adapter_model.safetensors": b"x"},
         ("adapters alone", "owner/base")),
        ({"adapter_config.json": b"[", "adapter_model.bin": b"x"}, ("adapters alone",)),
        ({"config.json": json_of(quantization_config={"quant_method": "bitsandbytes"}), "model.safetensors": b"x"},
         ("quantised", "bitsandbytes")),
        ({"config.json": json_of(quantization_config={"quant_method": "awq"})}, ("quantised", "awq")),
        ({"quantize_config.json": json_of(bits=4), "model.safetensors": b"x"}, ("quantised", "bits")),
        ({"config.json": b"{}", "model-q4.gguf": b"GGUF\3\0\0\0"}, ("model-q4.gguf", "GGUF")),
        ({"config.json": b"{}", "model.safetensors": POINTER}, ("model.safetensors", "Git LFS")),
        ({"config.json": b"{}", "model-00002-of-00002.safetensors": POINTER}, ("00002-of", "Git LFS")),
        ({"config.json": b"{}", "model.safetensors": b"<!DOCTYPE html><html>"}, ("model.safetensors", "HTML")),
        ({"config.json": b"{}", "pytorch_model.bin": b"PK\3\4"}, ("pytorch_model.bin", "safetensors")),
    ],
)  # fmt: skip
def test_a_folder_is_named_for_what_it_holds(tmp_path, files, named):
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with refused(CheckpointError, "import.unsupported", str(folder), *named):
        import_checkpoint(folder, tmp_path / "out", tokenizer=None, overwrite=False)
    with refused(CheckpointError, "import.unsupported", str(folder), *named):
        find_checkpoint(folder)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "content", "said"), [("a.npz", POINTER, "Git LFS"), ("a.gguf", b"GGUF\3", "GGUF")])
def test_a_file_is_named_for_what_it_is(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with refused(CheckpointError, "import.unsupported", name, said):
        import_checkpoint(tmp_path / name, tmp_path / "out", tokenizer=None, overwrite=False)
    with refused(CheckpointError, "import.unsupported", name, said):
        find_checkpoint(tmp_path / name)


def test_pipes_and_devices_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    (tmp_path / "model").mkdir()
    os.mkfifo(tmp_path / "model" / "model.safetensors")
    for source in (tmp_path / "a.npz", tmp_path / "model", Path("/dev/zero")):
        with refused(CheckpointError, "file.malformed", str(source)):
            import_checkpoint(source, tmp_path / "out", tokenizer=None, overwrite=False)

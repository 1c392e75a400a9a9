"""Damaged and mismatched files, destinations that may not be written: one clear line each, and nothing left behind."""

import errno
import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
from expected_errors import assert_refused
from golden_model import GOLDEN, load
from tiny_models import random_transformers_model, save_transformers_folder, tokenizer_file

from data_pipelines.core import atomic_files, exit_codes
from data_pipelines.text.tokenizer import train_tokenizer
from rllava_jax import convert
from rllava_jax.interop import import_checkpoint
from rllava_jax.interop.streaming import StreamedArray

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def model():
    return random_transformers_model("gemma1")


@pytest.fixture(scope="module")
def pristine(model, tmp_path_factory):
    """A folder of three shards with their index."""
    folder = save_transformers_folder(model, tmp_path_factory.mktemp("theirs") / "model", max_shard_size="400KB")
    assert (folder / INDEX).is_file()
    return folder


@pytest.fixture
def folder(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "model")


@pytest.fixture(scope="module")
def imported(pristine, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported") / "checkpoint"
    assert convert.main(["import", str(pristine), str(folder)]) == 0
    return folder


def refusal(capsys, *arguments, exit_code=exit_codes.USER_ERROR):
    """The one line of a command that must fail in an orderly way."""
    capsys.readouterr()
    status = convert.main([str(argument) for argument in arguments])
    shown = capsys.readouterr().err
    assert "Traceback" not in shown, shown
    lines = [line for line in shown.splitlines() if line.startswith("error:")]
    assert status == exit_code
    assert len(lines) == 1, lines
    return lines[0]


def shards(folder):
    return sorted(folder.glob("model-*.safetensors"))


def test_a_truncated_file_is_named(folder, tmp_path, capsys):
    shard = shards(folder)[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    line = refusal(capsys, "import", folder, tmp_path / "out")
    assert str(shard) in line
    assert "whole safetensors file" in line
    assert not (tmp_path / "out").exists()


def test_a_missing_shard_is_named(folder, tmp_path, capsys):
    shards(folder)[1].unlink()
    line = refusal(capsys, "import", folder, tmp_path / "out")
    assert "model-00002-of" in line
    assert "missing" in line


def test_an_index_that_puts_a_tensor_elsewhere_is_refused(folder, tmp_path, capsys):
    index = json.loads((folder / INDEX).read_text())
    names = sorted(set(index["weight_map"].values()))
    key = next(key for key, file in sorted(index["weight_map"].items()) if file == names[1])
    index["weight_map"][key] = names[2]
    (folder / INDEX).write_text(json.dumps(index))
    line = refusal(capsys, "import", folder, tmp_path / "out")
    assert INDEX in line
    assert key in line


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}'])
def test_an_index_that_is_none_is_refused(content, folder, tmp_path, capsys):
    (folder / INDEX).write_text(content)
    assert INDEX in refusal(capsys, "import", folder, tmp_path / "out")


def test_a_tensor_that_is_missing_from_file_and_index_is_named(folder, tmp_path, capsys):
    shard = shards(folder)[1]
    weights = safetensors.numpy.load_file(shard)
    key = sorted(weights)[0]
    del weights[key]
    safetensors.numpy.save_file(weights, shard, metadata={"format": "pt"})
    index = json.loads((folder / INDEX).read_text())
    del index["weight_map"][key]
    (folder / INDEX).write_text(json.dumps(index))
    line = refusal(capsys, "import", folder, tmp_path / "out")
    assert "1 missing" in line
    assert "unexpected" not in line


def test_a_tensor_too_many_is_named(folder, tmp_path, capsys):
    shard = shards(folder)[0]
    weights = safetensors.numpy.load_file(shard) | {"language_model.model.layers.7.mlp.up_proj.weight": np.ones((2, 2))}
    weights = {key: value.astype(np.float32) for key, value in weights.items()}
    safetensors.numpy.save_file(weights, shard, metadata={"format": "pt"})
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["language_model.model.layers.7.mlp.up_proj.weight"] = shard.name
    (folder / INDEX).write_text(json.dumps(index))
    line = refusal(capsys, "import", folder, tmp_path / "out")
    assert "1 unexpected (language_model.layers.7.mlp.up_proj.weight [2, 2])" in line


def test_a_shard_of_a_wider_model_is_refused(folder, tmp_path, capsys):
    shard = shards(folder)[1]
    weights = safetensors.numpy.load_file(shard)
    weights |= {key: np.concatenate([value, value]) for key, value in weights.items() if "layers" in key}
    safetensors.numpy.save_file(weights, shard, metadata={"format": "pt"})
    line = refusal(capsys, "import", folder, tmp_path / "out")
    assert "ill-shaped" in line
    assert "instead of" in line


def test_a_shard_in_another_type_is_refused(folder, tmp_path, capsys):
    shard = shards(folder)[1]
    weights = {key: value.astype(np.float16) for key, value in safetensors.numpy.load_file(shard).items()}
    safetensors.numpy.save_file(weights, shard, metadata={"format": "pt"})
    line = refusal(capsys, "import", folder, tmp_path / "out")
    assert "float16" in line
    assert "float32" in line


def test_shards_beside_those_of_the_index_are_refused(folder, tmp_path, capsys):
    shutil.copy(shards(folder)[0], folder / "model-00001-of-00009.safetensors")
    assert "model-00001-of-00009.safetensors" in refusal(capsys, "import", folder, tmp_path / "out")


def test_the_same_tensor_under_two_layouts_is_refused(folder, tmp_path, capsys):
    shard = shards(folder)[1]
    weights = safetensors.numpy.load_file(shard)
    key = next(key for key in sorted(weights) if "layers" in key)
    twin = "model." + key
    weights[twin] = weights[key]
    safetensors.numpy.save_file(weights, shard, metadata={"format": "pt"})
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][twin] = shard.name
    (folder / INDEX).write_text(json.dumps(index))
    line = refusal(capsys, "import", folder, tmp_path / "out")
    assert key in line
    assert twin in line


def test_an_output_layer_of_its_own_is_refused(folder, tmp_path, capsys):
    weights = {}
    for shard in shards(folder):
        weights |= safetensors.numpy.load_file(shard)
        shard.unlink()
    (folder / INDEX).unlink()
    table = next(value for key, value in weights.items() if key.endswith("embed_tokens.weight"))
    weights["lm_head.weight"] = table.copy()
    safetensors.numpy.save_file(weights, folder / "model.safetensors")
    assert convert.main(["import", str(folder), str(tmp_path / "tied")]) == 0
    weights["lm_head.weight"] = table + 1
    safetensors.numpy.save_file(weights, folder / "model.safetensors")
    line = refusal(capsys, "import", folder, tmp_path / "out")
    assert "lm_head.weight" in line
    assert str(folder) in line


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        (None, "model_type", "llava"),
        ("text_config", "model_type", "gemma3_text"),
        ("text_config", "hidden_act", "relu"),
        ("text_config", "rms_norm_eps", 1e-5),
        ("vision_config", "layer_norm_eps", 1e-5),
        ("text_config", "num_hidden_layers", 3),
        ("text_config", "num_hidden_layers", "two"),
        ("text_config", "head_dim", None),
        ("text_config", "rope_scaling", {"type": "linear", "factor": 4.0}),
        (None, "text_config", 3),
    ],
)
def test_a_config_of_another_model_is_refused(section, field, value, folder, tmp_path, capsys):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    (config if section is None else config[section])[field] = value
    if field == "hidden_act":
        config[section].pop("hidden_activation", None)
    path.write_text(json.dumps(config))
    if field == "rope_scaling":
        config[section].pop("rope_parameters", None)
        path.write_text(json.dumps(config))
    line = refusal(capsys, "import", folder, tmp_path / "out")
    said = {
        "num_hidden_layers": "missing" if value == 3 else "'two'",
        "rope_scaling": "linear",
        "text_config": "mapping",
    }
    assert said.get(field, str(value)) in line


def test_a_tokenizer_that_does_not_match_the_table_is_refused(folder, tmp_path, capsys):
    train_tokenizer(["liver lung kidney"] * 9, tmp_path / "other.model", vocab_size=300)
    line = refusal(capsys, "import", folder, tmp_path / "out", "--tokenizer", tmp_path / "other.model")
    assert "other.model" in line
    assert "2112 rows" in line


def test_an_npz_without_a_tokenizer_asks_for_one(tmp_path, capsys):
    line = refusal(capsys, "import", GOLDEN / "paligemma1_tiny.npz", tmp_path / "out")
    assert "--tokenizer" in line


def golden_params():
    return {key: value for key, value in load(GOLDEN / "paligemma1_tiny.npz").items() if key.startswith("params/")}


def npz_refusal(arrays, tmp_path, capsys):
    np.savez(tmp_path / "weights.npz", **arrays)
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_file())
    tokenizer = ("--tokenizer", tmp_path / "tokenizer.model")
    return refusal(capsys, "import", tmp_path / "weights.npz", tmp_path / "out", *tokenizer)


def test_an_npz_with_a_name_too_few_or_too_many_is_refused(tmp_path, capsys):
    arrays = golden_params()
    del arrays["params/img/head/bias"]
    arrays |= {"params/img/tail/bias": np.zeros(3), "params/img/scalar": np.zeros(())}
    line = npz_refusal(arrays, tmp_path, capsys)
    assert "1 missing (img/head/bias)" in line
    assert "2 unexpected (img/tail/bias [3], img/scalar [])" in line


def test_an_npz_with_an_ill_shaped_array_is_refused(tmp_path, capsys):
    arrays = golden_params()
    arrays["params/img/head/bias"] = np.zeros(3, np.float32)
    assert "img/head/bias [3] instead of [64]" in npz_refusal(arrays, tmp_path, capsys)


def test_an_npz_of_something_else_is_refused(tmp_path, capsys):
    assert "holds no PaliGemma" in npz_refusal({"weights": np.zeros((2, 2))}, tmp_path, capsys)


def test_a_truncated_npz_is_named(tmp_path, capsys):
    (tmp_path / "cut.npz").write_bytes((GOLDEN / "paligemma1_tiny.npz").read_bytes()[:50_000])
    assert "whole .npz archive" in refusal(capsys, "import", tmp_path / "cut.npz", tmp_path / "out")


def test_a_damaged_npz_is_found_while_it_is_read(tmp_path, capsys):
    content = bytearray((GOLDEN / "paligemma1_tiny.npz").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    (tmp_path / "damaged.npz").write_bytes(content)
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_file())
    line = refusal(
        capsys, "import", tmp_path / "damaged.npz", tmp_path / "out", "--tokenizer", tmp_path / "tokenizer.model"
    )
    assert "damaged" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged.npz", "tokenizer.model"]


@pytest.mark.parametrize("source", ["nowhere", "model.safetensors", "empty"])
def test_a_source_that_is_none_is_refused(source, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert str(tmp_path / source) in refusal(capsys, "import", tmp_path / source, tmp_path / "out")


def test_a_destination_that_exists_is_kept_unless_told_otherwise(pristine, imported, tmp_path, capsys):
    copy = shutil.copytree(imported, tmp_path / "copy")
    before = (copy / "checkpoints" / "0" / "_CHECKPOINT_METADATA").stat().st_ino
    assert "--overwrite" in refusal(capsys, "import", pristine, copy)
    assert (copy / "checkpoints" / "0" / "_CHECKPOINT_METADATA").stat().st_ino == before
    assert convert.main(["import", str(pristine), str(copy), "--overwrite"]) == 0
    assert (copy / "checkpoints" / "0" / "_CHECKPOINT_METADATA").stat().st_ino != before


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_overwrite_does_not_touch_what_this_command_did_not_write(pristine, imported, tmp_path, capsys):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years")
    np.savez(tmp_path / "kaggle.npz", **golden_params())
    mine = shutil.copytree(imported, tmp_path / "mine")
    (mine / "notes.txt").write_text("by hand")
    assert convert.main(["export", str(imported), str(tmp_path / "published")]) == 0
    (tmp_path / "published" / "notes.txt").write_text("by hand")
    before = files_below(tmp_path)
    for destination in ("home", "kaggle.npz", "mine", "published"):
        for command, source in (("import", pristine), ("export", imported)):
            line = refusal(capsys, command, source, tmp_path / destination, "--overwrite")
            assert "did not write" in line
    assert files_below(tmp_path) == before


def test_an_export_is_replaced_on_request(imported, tmp_path):
    for name in ("folder", "weights.npz"):
        assert convert.main(["export", str(imported), str(tmp_path / name)]) == 0
        assert convert.main(["export", str(imported), str(tmp_path / name), "--overwrite"]) == 0


def test_a_source_is_never_overwritten(pristine, imported, tmp_path, capsys):
    copy = shutil.copytree(imported, tmp_path / "copy")
    export = tmp_path / "export"
    assert convert.main(["export", str(copy), str(export)]) == 0
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_file())
    np.savez(tmp_path / "weights.npz", **golden_params())
    before = files_below(tmp_path)
    for arguments in (
        ("export", copy, copy),
        ("export", copy / "checkpoints" / "0", copy),
        ("export", copy, copy / "checkpoints" / "9"),
        ("import", export, export),
        ("import", export, tmp_path),
        ("import", tmp_path / "weights.npz", tmp_path / "weights.npz", "--tokenizer", tmp_path / "tokenizer.model"),
    ):
        assert "lie in one another" in refusal(capsys, *arguments, "--overwrite"), arguments
    assert files_below(tmp_path) == before


def test_the_folder_of_a_destination_is_made(pristine, tmp_path):
    assert convert.main(["import", str(pristine), str(tmp_path / "models" / "tiny")]) == 0
    assert (tmp_path / "models" / "tiny" / "checkpoints" / "0").is_dir()


def test_a_symbolic_link_is_not_replaced(pristine, imported, tmp_path, capsys):
    (tmp_path / "link").symlink_to(imported)
    assert "symbolic link" in refusal(capsys, "import", pristine, tmp_path / "link", "--overwrite")


def test_a_destination_that_may_not_be_written_is_one_line(pristine, tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "there")

    monkeypatch.setattr(atomic_files.tempfile, "mkdtemp", refuse)
    assert "Permission denied (there)" in refusal(capsys, "import", pristine, tmp_path / "out")


@pytest.mark.parametrize("dtype", ["int32", "float64", ">f4"])
def test_an_npz_of_other_numbers_is_refused(dtype, tmp_path, capsys):
    arrays = {name: value.astype(dtype) for name, value in golden_params().items()}
    assert "give weights in float32, float16 or bfloat16" in npz_refusal(arrays, tmp_path, capsys)


def test_no_path_of_another_machine_comes_in(folder, tmp_path):
    values = json.loads((folder / "config.json").read_text())
    for name, kept in (("/home/somebody/secret/model", None), ("google/paligemma-3b-pt-224", "same"), ("../up", None)):
        (folder / "config.json").write_text(json.dumps(values | {"_name_or_path": name}))
        assert convert.main(["import", str(folder), str(tmp_path / "out"), "--overwrite"]) == 0
        record = json.loads((tmp_path / "out" / "conversion.json").read_text())
        assert record["model"] == (name if kept else None)


def test_a_damaged_checkpoint_is_named_when_it_is_exported(imported, tmp_path, capsys):
    copy = shutil.copytree(imported, tmp_path / "copy")
    data = max((copy / "checkpoints" / "0" / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
    data.write_bytes(data.read_bytes()[:100])
    line = refusal(capsys, "export", copy, tmp_path / "out")
    assert "cannot be read" in line
    assert not (tmp_path / "out").exists()


def test_a_step_is_named_once(imported, tmp_path, capsys):
    line = refusal(capsys, "export", imported / "checkpoints" / "0", tmp_path / "out", "--step", "5")
    assert "leave one of the two out" in line


@pytest.mark.parametrize("size", ["0", "-1", "nan", "inf", "large"])
def test_a_shard_size_is_a_size(size, imported, tmp_path, capsys):
    assert convert.main(["export", str(imported), str(tmp_path / "out"), f"--shard-gb={size}"]) == 2
    assert_refused(capsys.readouterr().err, "option.invalid-value", f"--shard-gb: '{size}'")


class FullDisk:
    """Yields a first block and then fails as a full disk does."""

    def __init__(self, error):
        self.error = error

    def __call__(self, arrays):
        name, array = next(iter(arrays.items()))

        def blocks():
            raise self.error
            yield

        return {**arrays, name: StreamedArray(array.shape, array.dtype, array.rows, blocks)}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("RESOURCE_EXHAUSTED: write: No space left on device"),
    ],
)
def test_a_full_disk_leaves_what_was_there_and_nothing_else(error, pristine, imported, tmp_path, capsys, monkeypatch):
    copy = shutil.copytree(imported, tmp_path / "copy")
    monkeypatch.setattr(import_checkpoint, "with_progress", FullDisk(error))
    full = {"exit_code": exit_codes.STORAGE}
    assert "[storage.full]" in refusal(capsys, "import", pristine, copy, "--overwrite", **full)
    assert "[storage.full]" in refusal(capsys, "import", pristine, tmp_path / "new", **full)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    monkeypatch.undo()
    assert convert.main(["export", str(copy), str(tmp_path / "out")]) == 0


def test_too_little_room_is_said_before_anything_is_written(pristine, tmp_path, capsys, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(atomic_files.shutil, "disk_usage", lambda _: usage)
    assert "GiB free" in refusal(capsys, "import", pristine, tmp_path / "out")


def test_numbers_beyond_float16_are_not_written_as_infinite(pristine, tmp_path, capsys):
    folder = shutil.copytree(pristine, tmp_path / "large")
    shard = shards(folder)[0]
    weights = safetensors.numpy.load_file(shard)
    key = sorted(weights)[0]
    weights[key] = weights[key] + np.float32(1e6)
    safetensors.numpy.save_file(weights, shard, metadata={"format": "pt"})
    assert convert.main(["import", str(folder), str(tmp_path / "imported")]) == 0
    line = refusal(capsys, "export", tmp_path / "imported", tmp_path / "out", "--dtype", "float16")
    assert "float16" in line
    assert not (tmp_path / "out").exists()


def test_adapters_that_are_not_there_cannot_be_kept(imported, tmp_path, capsys):
    assert "--keep-lora" in refusal(capsys, "export", imported, tmp_path / "out", "--keep-lora")
    assert "--keep-lora" in refusal(capsys, "export", imported, tmp_path / "out.npz", "--keep-lora")


def test_a_checkpoint_that_is_none_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "holds no checkpoint" in refusal(capsys, "export", tmp_path / "empty", tmp_path / "out")


@pytest.mark.parametrize("damaged", ["checkpoints/0/assets/conversion.json", "eval/0/metrics.json"])
def test_a_damaged_record_is_named(damaged, imported, tmp_path, capsys):
    copy = shutil.copytree(imported, tmp_path / "copy")
    (copy / damaged).parent.mkdir(parents=True, exist_ok=True)
    (copy / damaged).write_text("{")
    assert damaged.removeprefix("checkpoints/0/") in refusal(capsys, "export", copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()

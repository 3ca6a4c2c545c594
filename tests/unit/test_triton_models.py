"""One model of a repository as a function: what each setting becomes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gslice.core.errors import ConfigError, Unimplemented
from gslice.protos import pool
from gslice.triton.model import Read, read_model
from gslice.triton.pbtxt import is_read
from gslice.triton.repository import Root, models_of
from tests.triton_repository import empty_file, put
from tests.unit.triton_bench import CPU, X, Y, body, notes, read, refused

# ---- tensors and batches -------------------------------------------------------------------------


def test_without_a_config_the_model_says_all(tmp_path: Path) -> None:
    path = put(tmp_path, "m", make=empty_file)
    found = read_model(models_of(Root(tmp_path))[0], CPU)
    assert found.body == {"model": str(path / "1/model.onnx"), "versions": {"number": 1}}
    assert (found.notes, found.samples) == ([], [])


def test_tensors_have_rows_if_there_is_a_batch_size(tmp_path: Path) -> None:
    config = "max_batch_size: 8 dynamic_batching {}\n" + X + Y
    assert body(tmp_path, config) == {
        "tensors": {
            "batched": True,
            "inputs": [{"name": "x", "dtype": "FP32", "dims": [-1, 8]}],
            "outputs": [{"name": "y", "dtype": "FP32", "dims": [-1, 3]}],
        },
        "batch": {"max": 8},
    }


@pytest.mark.parametrize("size", ["", "max_batch_size: 0\n"])
def test_without_a_batch_size_dims_are_whole(tmp_path: Path, size: str) -> None:
    stated = body(tmp_path, size + X)["tensors"]
    assert stated == {
        "batched": False,
        "inputs": [{"name": "x", "dtype": "FP32", "dims": [8]}],
    }


def test_a_batch_size_of_0_alone_says_that_nothing_is_batched(tmp_path: Path) -> None:
    assert body(tmp_path, "max_batch_size: 0") == {"tensors": {"batched": False}}


def test_a_reshape_is_what_the_model_takes(tmp_path: Path) -> None:
    config = """max_batch_size: 1
    input { name: "x" data_type: TYPE_STRING dims: [ 1, -1 ] reshape { shape: [ -1 ] } }
    output { name: "y" data_type: TYPE_BF16 dims: 1 reshape { } }"""
    stated = body(tmp_path, config)["tensors"]
    assert stated["inputs"] == [
        {"name": "x", "dtype": "BYTES", "dims": [-1, 1, -1], "model_dims": [-1, -1]}
    ]
    assert stated["outputs"] == [
        {"name": "y", "dtype": "BF16", "dims": [-1, 1], "model_dims": [-1]}
    ]


@pytest.mark.parametrize("tensor", ['name: "x" dims: 1', "data_type: TYPE_FP32 dims: 1"])
def test_a_tensor_needs_name_and_type(tmp_path: Path, tensor: str) -> None:
    assert "m/config.pbtxt:2: input" in refused(tmp_path, f"\ninput {{ {tensor} }}").message


def test_delay_and_queue(tmp_path: Path) -> None:
    config = """max_batch_size: 4
    dynamic_batching {
      preferred_batch_size: [ 4 ]
      max_queue_delay_microseconds: 1500
      default_queue_policy { max_queue_size: 100 timeout_action: REJECT
                             allow_timeout_override: true }
    }"""
    found = read(tmp_path, config)
    assert found.body["batch"] == {"max": 4, "delay": "1500us"}
    assert found.body["queue"] == {"max": 100}
    assert found.notes == []


def test_what_batching_cannot_honour_is_told(tmp_path: Path) -> None:
    config = """max_batch_size: 8
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  preserve_ordering: true
  priority_levels: 3
  default_priority_level: 2
  priority_queue_policy { key: 1 value { max_queue_size: 3 } }
  default_queue_policy {
    timeout_action: DELAY
    default_timeout_microseconds: 1000
    max_queue_size: 5000
  }
}"""
    found = read(tmp_path, config)
    assert found.body["queue"] == {"max": 1024}
    assert [
        (note.place, note.setting.removeprefix("dynamic_batching.")) for note in found.notes
    ] == [
        ("m/config.pbtxt:3", "preferred_batch_size"),
        ("m/config.pbtxt:4", "preserve_ordering"),
        ("m/config.pbtxt:5", "priority_levels"),
        ("m/config.pbtxt:6", "default_priority_level"),
        ("m/config.pbtxt:7", "priority_queue_policy"),
        ("m/config.pbtxt:9", "default_queue_policy.timeout_action"),
        ("m/config.pbtxt:10", "default_queue_policy.default_timeout_microseconds"),
        ("m/config.pbtxt:11", "default_queue_policy.max_queue_size"),
    ]


def test_batching_without_a_batcher_is_told(tmp_path: Path) -> None:
    assert notes(tmp_path, "max_batch_size: 8") == [("m/config.pbtxt:1", "max_batch_size")]


# ---- what is not honoured ------------------------------------------------------------------------


def test_nothing_that_is_written_is_passed_over(tmp_path: Path) -> None:
    config = """optimization { cuda { graphs: true } priority: PRIORITY_MAX }
max_batch_sise: 8
output { name: "y" data_type: TYPE_FP32 dims: 3 label_filename: "labels.txt" }
input { name: "x" data_type: TYPE_FP32 dims: 8 optional: false format: FORMAT_NONE }
response_cache { enable: true }
instance_group { kind: KIND_CPU rate_limiter { priority: 2 } }
dynamic_batching { surprise: 0 }
"""
    assert notes(tmp_path, config) == [
        ("m/config.pbtxt:1", "optimization"),
        ("m/config.pbtxt:2", "max_batch_sise"),
        ("m/config.pbtxt:3", "output.label_filename"),
        ("m/config.pbtxt:5", "response_cache"),
        ("m/config.pbtxt:6", "instance_group.rate_limiter"),
        ("m/config.pbtxt:7", "dynamic_batching.surprise"),
    ]


def test_what_is_read_is_what_our_messages_have() -> None:
    """One more field there is one more setting that must be honoured."""

    def fields(descriptor: Any) -> int:
        inner = (f.message_type for f in descriptor.fields if f.message_type is not None)
        return len(descriptor.fields) + sum(map(fields, inner))

    assert fields(pool().FindMessageTypeByName("inference.ModelConfig")) == 58
    assert is_read("model_warmup.inputs.value.zero_data")
    assert not is_read("model_warmup.inputs.value.zero_data.more")


def test_parameters_are_told_of_one_by_one(tmp_path: Path) -> None:
    config = """
parameters { key: "intra_op_thread_count" value { string_value: "3" } }
parameters { key: "execution_mode" value { string_value: "1" } }"""
    found = read(tmp_path, config)
    assert found.body["threads"] == 3
    assert [(note.place, note.text.partition(":")[0]) for note in found.notes] == [
        ("m/config.pbtxt:3", "execution_mode")
    ]


@pytest.mark.parametrize("threads", ["all", "9" * 5000])
def test_threads_must_be_a_number(tmp_path: Path, threads: str) -> None:
    config = f'parameters {{ key: "intra_op_thread_count" value {{ string_value: "{threads}" }} }}'
    assert f"{threads!r}, no number" in refused(tmp_path, config).message


# ---- versions and files --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "served", "told"),
    [
        ("", 10, False),
        ("version_policy { latest { num_versions: 2 } }", 10, True),
        ("version_policy { all { } }", 10, True),
        ("version_policy { specific { versions: [ 2 ] } }", 2, False),
        ("version_policy { specific { versions: [ 2, 9 ] } }", 9, True),
    ],
)
def test_the_newest_of_the_versions_is_served(
    tmp_path: Path, policy: str, served: int, told: bool
) -> None:
    (tmp_path / "m/007").mkdir(parents=True)
    (tmp_path / "m/notes").mkdir()
    found = read(tmp_path, policy, versions=(2, 9, 10))
    assert found.body["versions"] == {"number": served}
    assert found.body["model"] == str(tmp_path / f"m/{served}/model.onnx")
    assert [note.setting for note in found.notes] == ["version_policy"] * told


def test_a_policy_for_other_versions_is_refused(tmp_path: Path) -> None:
    config = "version_policy { specific { versions: [ 3 ] } }"
    assert "which are 1, 2" in refused(tmp_path, config, versions=(1, 2)).message


@pytest.mark.parametrize(
    ("config", "file"),
    [
        ("", "model.onnx"),
        ("", "model.pt2"),
        ('backend: "onnxruntime"', "model.onnx"),
        ('platform: "onnxruntime_onnx"', "model.onnx"),
        ('backend: "pytorch"', "model.pt2"),
        ('platform: "torch_aoti"', "model.pt2"),
        ('default_model_filename: "best.onnx"', "best.onnx"),
    ],
)
def test_files(tmp_path: Path, config: str, file: str) -> None:
    found = read(tmp_path, config, file=file)
    assert found.body["model"] == str(tmp_path / "m/1" / file)
    assert found.notes == []


def test_a_model_with_files_of_its_own_is_a_directory(tmp_path: Path) -> None:
    put(tmp_path, "m", make=empty_file, file="model.onnx.moved")
    folder = tmp_path / "m/1/model.onnx"
    folder.mkdir()
    (tmp_path / "m/1/model.onnx.moved").rename(folder / "model.onnx")
    found = read_model(models_of(Root(tmp_path))[0], CPU)
    assert found.body["model"] == str(folder / "model.onnx")


@pytest.mark.parametrize(
    ("config", "file", "reason"),
    [
        ('platform: "tensorrt_plan"', "model.plan", "no backend 'tensorrt'"),
        ('backend: "dali"', "model.dali", "no backend 'dali'"),
        ('backend: "mine"', "model.x", "no backend 'mine'"),
        ("", "model.plan", "a TensorRT engine"),
        ("", "model.pt", "TorchScript"),
        ('backend: "pytorch"', "model.pt", "TorchScript"),
        ("", "model.savedmodel", "SavedModel"),
        ("", "model.bin", "there is no model.onnx or model.pt2 or model.py"),
        ('backend: "onnxruntime"', "model.pt2", "there is no model.onnx"),
        ('default_model_filename: "a.bin"', "a.bin", "no .bin files"),
        ('default_model_filename: "../x.onnx"', "model.onnx", "no name of a file"),
        ('name: "other"', "model.onnx", "m/config.pbtxt:1: name is 'other'"),
    ],
)
def test_files_that_are_not_served(tmp_path: Path, config: str, file: str, reason: str) -> None:
    error = refused(tmp_path, config, file=file)
    assert reason in error.message
    assert error.hint or "there is no" in error.message or "no name" in error.message


def test_a_model_without_versions_is_refused(tmp_path: Path) -> None:
    assert "has no version" in refused(tmp_path, versions=()).message


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("ensemble_scheduling { step [ { model_name: 'a' } ] }", "it is an ensemble"),
        ('platform: "ensemble"', "it is an ensemble"),
        ("sequence_batching { oldest { } }", "a sequence model"),
        ("model_transaction_policy { decoupled: true }", "it is decoupled"),
        ("batch_input { kind: BATCH_ELEMENT_COUNT }", "ragged"),
        ("input { name: 'x' allow_ragged_batch: true }", "ragged"),
    ],
)
def test_what_is_no_single_function_is_refused(tmp_path: Path, config: str, reason: str) -> None:
    error = refused(tmp_path, config, versions=())
    assert isinstance(error, Unimplemented)
    assert reason in error.message
    assert error.hint


# ---- Python --------------------------------------------------------------------------------------

TAGGER = "class _Helper:\n    pass\n\nclass Tagger:\n    def infer(self, inputs):\n        ...\n"
TRITONS = "class TritonPythonModel:\n    def execute(self, requests):\n        {}\n"


def python(folder: Path, source: str, config: str = "") -> Read:
    put(folder, "m", config, make=empty_file, file="model.py")
    (folder / "m/1/model.py").write_text(source)
    return read_model(models_of(Root(folder))[0], CPU)


def test_a_class_with_infer_is_served(tmp_path: Path) -> None:
    config = 'backend: "python"\nparameters { key: "path" value { string_value: "a" } }\n' + X
    found = python(tmp_path, TAGGER, config)
    assert found.body == {
        "python": f"{tmp_path}/m/1/model.py:Tagger",
        "args": {"path": "a"},
        "versions": {"number": 1},
    }
    assert [(note.place, note.setting) for note in found.notes] == [("m/config.pbtxt:3", "input")]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (TRITONS.format("pass"), "is a TritonPythonModel"),
        (TRITONS.format("pb_utils.InferenceRequest()"), r"calls other models \(BLS\)"),
        ("x = 1\n", "has none"),
        (TAGGER + TAGGER.replace("Tagger", "Other"), "has 2 of them: Tagger, Other"),
    ],
)
def test_other_python_is_refused(tmp_path: Path, source: str, reason: str) -> None:
    with pytest.raises(Unimplemented, match=reason) as caught:
        python(tmp_path, source)
    assert caught.value.hint


def test_python_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.py:1: no Python"):
        python(tmp_path, "x = " + "-" * 20_000 + "1")


def test_broken_python_is_refused_by_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.py:2: no Python"):
        python(tmp_path, "x = 1\ndef\n")

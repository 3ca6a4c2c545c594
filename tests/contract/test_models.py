"""Real models on a whole node: daemon, front-end, workers. Answers equal onnxruntime's own.

A request that is alone in its batch is compared bit by bit, because the engine then computes the
very same thing; requests that are batched with others to a tolerance of a few units in the last
place, because kernels may sum in another order for another batch size.
"""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests import models
from tests.node import Node

MAKERS = {
    "affine": models.affine,
    "dynamic_image": models.dynamic_image,
    "strings": models.strings,
    "multi": models.multi,
    "scalar": models.scalar,
    "fixed_batch": models.fixed_batch,
    "nonzero": models.nonzero,
    "half": lambda folder: models.identity(folder, "FP16"),
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: make(folder) for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def node(tmp_path_factory, paths, frontend_kind):
    running = Node(
        tmp_path_factory.mktemp("node"),
        {
            name: {"model": str(path), "queue": {"request_max": "2MiB"}}
            for name, path in paths.items()
        },
        node={"frontend": frontend_kind},
    )
    try:
        running.start()
        yield running
        running.stop()
    finally:
        if running.running:
            running.destroy()


@pytest.fixture
def client(node):
    """A client; afterwards every slot of every function is FREE."""
    with triton.InferenceServerClient(node.grpc_address) as connection:
        yield connection
    for name in MAKERS:
        node.wait_all_free(name)


def random(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


INPUTS = {
    "affine": [{"x": random(1, 8)}, {"x": random(3, 8)}, {"x": random(16, 8)}],
    "dynamic_image": [{"x": random(1, 3, 5, 7)}, {"x": random(2, 3, 32, 16)}],
    "strings": [{"x": np.array([["", "a"], ["gr\u00fc\u00df", "x" * 500]], object)}],
    "multi": [
        {"a": random(2, 4), "b": random(2, 4) + 1, "c": np.array([0, 255], np.uint8)},
    ],
    "scalar": [{"x": np.array(1.5, np.float32)}],
    "fixed_batch": [{"x": random(2, 3)}],
    "nonzero": [
        {"x": np.array([0, 1, 0, 2, 3], np.float32)},
        {"x": np.zeros(4, np.float32)},
        {"x": random(3000)},
    ],
    "half": [{"x": random(5, 4).astype(np.float16)}],
}


def tensors(inputs):
    made = []
    for name, array in inputs.items():
        tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def same(got, expected):
    assert got.shape == expected.shape
    if expected.dtype == object:
        texts = [text.encode() for text in expected.ravel()]
        assert list(got.ravel()) == texts
    else:
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


CASES = [(name, i) for name, cases in INPUTS.items() for i in range(len(cases))]


@pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{name}-{i}" for name, i in CASES])
def test_answers_equal_onnxruntimes(client, paths, name, case):
    inputs = INPUTS[name][case]
    result = client.infer(name, tensors(inputs))
    for output, expected in models.reference(paths[name], inputs).items():
        same(result.as_numpy(output), expected)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_metadata_fits_the_model(client, name):
    """What a planner such as perf_analyzer reads: metadata, configuration and statistics agree."""
    metadata = client.get_model_metadata(name)
    config = client.get_model_config(name).config
    assert (metadata.platform, config.backend) == ("onnxruntime_onnx", "onnxruntime")
    for tensor, planned in zip(metadata.inputs, config.input, strict=True):
        given = INPUTS[name][0][tensor.name]
        assert tensor.datatype == np_to_triton_dtype(given.dtype)
        assert len(tensor.shape) == given.ndim
        batch = [-1] if config.max_batch_size else []
        assert list(tensor.shape) == [*batch, *planned.dims]
    assert bool(config.max_batch_size) == (name not in ("scalar", "fixed_batch", "nonzero"))
    (stats,) = client.get_inference_statistics(name).model_stats
    assert int(stats.version) == int(metadata.versions[0]) == 1


def test_requested_outputs(client, paths):
    inputs = INPUTS["multi"][0]
    wanted = [triton.InferRequestedOutput("count"), triton.InferRequestedOutput("total")]
    result = client.infer("multi", tensors(inputs), outputs=wanted)
    assert [o.name for o in result.get_response().outputs] == ["count", "total"]
    expected = models.reference(paths["multi"], inputs)
    for name in ("count", "total"):
        same(result.as_numpy(name), expected[name])


def test_batched_answers_are_each_ones_own(client, node, paths):
    """Many at once are served in batches; each gets its own rows back."""
    sent = [random(1 + i % 3, 8) + i for i in range(300)]
    (before,) = client.get_inference_statistics("affine").model_stats
    with ThreadPoolExecutor(24) as pool:
        results = list(pool.map(lambda x: client.infer("affine", tensors({"x": x})), sent))
    for x, result in zip(sent, results, strict=True):
        expected = models.reference(paths["affine"], {"x": x})["y"]
        np.testing.assert_allclose(result.as_numpy("y"), expected, rtol=2e-5, atol=2e-4)
    (after,) = client.get_inference_statistics("affine").model_stats
    assert after.inference_count - before.inference_count == sum(len(x) for x in sent)
    assert after.execution_count - before.execution_count < 300, "nothing was batched"


def test_one_batch_equals_onnxruntimes_batch(client, paths):
    """The rows of a full batch, bit by bit."""
    x = random(16, 8) * 100
    expected = models.reference(paths["affine"], {"x": x})["y"]
    same(client.infer("affine", tensors({"x": x})).as_numpy("y"), expected)


def test_stream_over_several_models(client, node, paths):
    async def main():
        async def requests():
            for name, case in CASES:
                yield {"model_name": name, "inputs": tensors(INPUTS[name][case])}

        async with triton_aio.InferenceServerClient(node.grpc_address) as aio:
            answers = [pair async for pair in aio.stream_infer(requests())]
        assert len(answers) == len(CASES)
        for (name, case), (result, error) in zip(CASES, answers, strict=True):
            assert error is None, error
            for output, expected in models.reference(paths[name], INPUTS[name][case]).items():
                same(result.as_numpy(output), expected)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "inputs", "told"),
    [
        ("affine", {"x": random(1, 9)}, 'input "x" has shape [1, 9], expected [-1, 8]'),
        ("affine", {"x": random(17, 8)}, "shape [17, 8], expected [-1, 8] with 1 to 16 rows"),
        ("fixed_batch", {"x": random(3, 3)}, 'input "x" has shape [3, 3], expected [2, 3]'),
        ("scalar", {"x": random(1)}, 'input "x" has shape [1], expected []: rank 1, not 0'),
        (
            "multi",
            {"a": random(2, 4), "b": random(3, 4), "c": np.zeros(2, np.uint8)},
            'input "b" has 3 rows, but an input before it has 2',
        ),
    ],
)
def test_wrong_shapes(client, name, inputs, told):
    with pytest.raises(InferenceServerException, match=f"INVALID_ARGUMENT.*{re.escape(told)}"):
        client.infer(name, tensors(inputs))


def test_load_and_unload(client, node):
    """A client takes a function out and brings it back."""
    client.unload_model("half")
    with pytest.raises(InferenceServerException, match=r"NOT_FOUND|UNAVAILABLE"):
        client.infer("half", tensors(INPUTS["half"][0]))
    with pytest.raises(InferenceServerException, match=r"StatusCode\.(NOT_FOUND|INVALID)"):
        client.load_model("nobody")
    client.load_model("half")
    assert client.is_model_ready("half")
    inputs = INPUTS["half"][0]
    same(client.infer("half", tensors(inputs)).as_numpy("y"), inputs["x"])

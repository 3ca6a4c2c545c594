"""Which settings of a config.pbtxt are honoured; all others are told of, whether known or not.

Our messages have the settings that are read, and no others (protos/kserve.proto).
"""

from __future__ import annotations

from collections.abc import Iterator

from gslice.triton.pbtxt import ConfigText, is_read
from gslice.triton.report import Note
from gslice.triton.repository import ModelDir

# Known settings that gslice has nothing for, by what is the case instead.
_INSTEAD = {
    "input.format": "clients send tensors as the model takes them",
    "input.optional": "every request must have all inputs",
    "input.is_shape_tensor": "that is TensorRT's",
    "input.is_non_linear_format_io": "that is TensorRT's",
    "input.allow_ragged_batch": "requests of one shape are batched only",
    "output.label_filename": "classification is not offered: clients get the scores, and need the"
    " labels themselves",
    "output.is_shape_tensor": "that is TensorRT's",
    "output.is_non_linear_format_io": "that is TensorRT's",
    "optimization": "gslice chooses threads, graphs and copies by itself",
    "instance_group.rate_limiter": "the device is divided by shares",
    "instance_group.profile": "that is TensorRT's",
    "instance_group.passive": "every instance serves",
    "instance_group.secondary_devices": "an instance is on one device",
    "instance_group.host_policy": "workers of a GPU are on the cores near it",
    "dynamic_batching.preserve_ordering": "answers go out as they are ready",
    "dynamic_batching.priority_levels": "requests are served by their deadlines: give those that"
    " are urgent a shorter timeout; functions have a priority",
    "dynamic_batching.default_priority_level": "as priority_levels",
    "dynamic_batching.priority_queue_policy": "as priority_levels",
    "cc_model_filenames": "one file is served on all GPUs",
    "metric_tags": "metrics have the function as their label",
    "model_metrics": "histograms have fixed buckets",
    "model_operations": "no libraries of operators are loaded",
    "model_repository_agents": "files are read as they lie there",
    "model_warmup.count": "each batch size that is prepared runs once",
    "response_cache": "every request is computed",
    "runtime": "the engine follows from the file",
}
_AS_WITHOUT = ("false", "False", "f", "0", "FORMAT_NONE")  # what a setting says that is off


def dishonoured(model: ModelDir, text: ConfigText) -> Iterator[Note]:
    """A note for each setting that gslice has nothing for, the outermost of those within it."""
    within = ""
    for setting in text.settings:
        if within and setting.path.startswith(within):
            continue
        within = ""
        if is_read(setting.path):
            continue
        within = f"{setting.path}."
        instead = _INSTEAD.get(setting.path, "")
        if instead and setting.value in _AS_WITHOUT:
            continue
        reason = f"not honoured: {instead}" if instead else "not honoured: gslice does not know it"
        yield Note(model.name, model.place(setting.line), setting.path, reason)

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gslice.core.config import load_config
from gslice.core.errors import ConfigError


def problems(path: Path, text: str) -> list[str]:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ={})
    return [line.replace(f"{path.parent}/", "") for line in caught.value.message.splitlines()]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "version: 1\nfunctions:\n  detektor:\n    model: a.onnx\n    shar: 40%\n",
            "node.yaml:5: functions.detektor.shar: unknown key; did you mean 'share'?",
        ),
        ("version: 1\nnod: {}\n", "node.yaml:2: nod: unknown key; did you mean 'node'?"),
        (
            "version: 1\nnode: {zzzz: 1}\n",
            "node.yaml:2: node.zzzz: unknown key; there is grpc, http, metrics, ui, state_dir,"
            " orphan_grace, hang_timeout, drain_timeout, pinned_memory, frontends,"
            " frontend, frontend_memory, connection_age, request_max, tls, controller, packing,"
            " spares, client_memory, access, insecure, model_roots, python_functions,"
            " metrics_triton, logs, tracing, model_cache",
        ),
        ("node: {}\n", "node.yaml:1: version: required, but not given; write `version: 1`"),
        ("version: 2\n", "node.yaml:1: version: 2 is not one of 1"),
        (
            "version: 1\nnode:\n  orphan_grace: 5\n",
            "node.yaml:3: node.orphan_grace: '5' has no unit; write it as 30ms",
        ),
        (
            "version: 1\nnode:\n  grpc: 8001\n",
            "node.yaml:3: node.grpc: 8001 is not an address; write host:port, as in 127.0.0.1:8001",
        ),
        (
            "version: 1\nnode:\n  grpc: 127.0.0.1:99999\n",
            "node.yaml:3: node.grpc: '127.0.0.1:99999' is not an address; write host:port,"
            " as in 127.0.0.1:8001",
        ),
        (
            "version: 1\nnode: {grpc: 127.0.0.1:1, http: 127.0.0.1:1}\n",
            "node.yaml:2: node.http: 127.0.0.1:1 is node.grpc already; use another port",
        ),
        (
            "version: 1\nnode: {frontends: 0}\n",
            "node.yaml:2: node.frontends: must be at least 1, not 0",
        ),
        (
            "version: 1\nnode: {frontend: nativ}\n",
            "node.yaml:2: node.frontend: 'nativ' is not one of 'auto', 'native' or 'python'",
        ),
        (
            "version: 1\nnode: {frontend_memory: 8MiB}\n",
            "node.yaml:2: node.frontend_memory: 8MiB is less than node.request_max, 64MiB:"
            " no room for one such message",
        ),
        (
            "version: 1\nnode:\n  tls: {certificate: a.pem}\n",
            "node.yaml:3: node.tls.key: required, but not given",
        ),
        (
            "version: 1\nnode: {tls: server.pem}\n",
            "node.yaml:2: node.tls: must be a mapping, as in {key: value}, not 'server.pem'",
        ),
        *(
            (
                f"version: 1\nnode: {{client_memory: {{prefix: {wrong}}}}}\n",
                f"node.yaml:2: node.client_memory.prefix: '{wrong}' is no prefix of keys; write one"
                " as in /name-, without another /",
            )
            for wrong in ("mine-", "/", "/a/b", "/../")
        ),
        (
            "version: 1\nnode: {tracing: {otlp: 'collector:4317'}}\n",
            "node.yaml:2: node.tracing.otlp: 'collector:4317' is not a URL; write one as in"
            " http://127.0.0.1:9000/health",
        ),
        (
            "version: 1\nnode: {tracing: {otlp: 'http://a', sample: 2}}\n",
            "node.yaml:2: node.tracing.sample: must be at most 1, not 2",
        ),
        (
            "version: 1\nnode: {logs: {keep: 0}}\n",
            "node.yaml:2: node.logs.keep: must be at least 1, not 0",
        ),
        (
            "version: 1\nnode: {client_memory: {prefix: /a, owner: nobody-of-this-name}}\n",
            "node.yaml:2: node.client_memory.owner: there is no user 'nobody-of-this-name'",
        ),
        *(
            (
                f"version: 1\nnode: {{spares: {wrong}}}\n",
                "node.yaml:2: node.spares: must be a number from 0 to 16, or `auto`",
            )
            for wrong in ("-1", "17", "true", "one", "'1'", "")
        ),
        *(
            (
                "version: 1\ndevices: {cuda:0: {}, cuda:1: {}}\n"
                f"functions: {{f: {{model: m, {wrong}}}}}\n",
                f"node.yaml:3: functions.f.replicas: {told}",
            )
            for wrong, told in (
                ("replicas: 3", "asks for 3 devices that are alike; there are 2 for it"),
                ("replicas: 9", "must be a number from 1 to 8, `auto`, or {min: 1, max: 4}"),
                ("replicas: {min: 3, max: 2}", "min is above max"),
                (
                    "instances: 5, replicas: 2",
                    "2 replicas of 5 instances are 10 workers; at most 8 serve a function",
                ),
                (
                    "device: cuda:1, replicas: auto",
                    "replicas are on several devices, and it is pinned to cuda:1;"
                    " write device: auto",
                ),
            )
        ),
        (
            "version: 1\nfunctions: {f: {model: m, share: 40}}\n",
            "node.yaml:2: functions.f.share: '40' has no percent sign; write it as 40%;"
            " a share is auto, 40% or {min: 20%, max: 60%}",
        ),
        (
            "version: 1\nfunctions: {f: {model: m, share: {min: 50%, max: 20%}}}\n",
            "node.yaml:2: functions.f.share: min is above max",
        ),
        (
            "version: 1\nfunctions: {f: {model: m, share: {mni: 50%}}}\n",
            "node.yaml:2: functions.f.share.mni: unknown key; did you mean 'min'?",
        ),
        (
            "version: 1\nfunctions: {f: {model: m, priority: urgent}}\n",
            "node.yaml:2: functions.f.priority: 'urgent' is not one of 'low', 'normal' or 'high'",
        ),
        (
            "version: 1\nfunctions: {f: {model: m, batch: 7}}\n",
            "node.yaml:2: functions.f.batch: must be a mapping, as in {key: value}, not 7",
        ),
        (
            "version: 1\nfunctions: {f: {model: m, side_effects: 1}}\n",
            "node.yaml:2: functions.f.side_effects: must be true or false, not 1",
        ),
        (
            "version: 1\nfunctions: {f: {model: m, lanes: two}}\n",
            "node.yaml:2: functions.f.lanes: must be a whole number, not 'two'",
        ),
        (
            "version: 1\nfunctions: {f: {model: m, python: a:B}}\n",
            "node.yaml:2: functions.f: model and python exclude each other; keep one",
        ),
        (
            "version: 1\nfunctions: {f: {share: auto}}\n",
            "node.yaml:2: functions.f: says nothing to serve; add one of model, torch, python,"
            " identity, command",
        ),
        (
            "version: 1\nfunctions: {f: {model: }}\n",
            "node.yaml:2: functions.f: says nothing to serve; add one of model, torch, python,"
            " identity, command",
        ),
        (
            "version: 1\nfunctions: {f: {python: tagger}}\n",
            "node.yaml:2: functions.f: python: 'tagger' must be module:Class, as in tagger:Tagger",
        ),
        (
            "version: 1\nfunctions: {f: {torch: tagger}}\n",
            "node.yaml:2: functions.f: torch: 'tagger' must be module:factory, as in tagger:make",
        ),
        *(
            (
                f"version: 1\nfunctions: {{f: {{{source}, args: {{{wrong}}}}}}}\n",
                f"node.yaml:2: functions.f: {told}",
            )
            for source, wrong, told in (
                (
                    "model: m.onnx",
                    "batch: 1",
                    "args.batch: an .onnx model takes batched, cpu_nodes and arena",
                ),
                ("model: m.onnx", "cpu_nodes: 1", "args.cpu_nodes: 1 must be true or false"),
                ("model: m.onnx", "arena: 2", "args.arena: '2' has no unit; write it as 64MiB"),
                ("model: m.pt2", "a: 1", "args goes with python, torch and .onnx models only"),
            )
        ),
        (
            "version: 1\nfunctions: {f: {model: m.onnx, precision: fp16}}\n",
            "node.yaml:2: functions.f: precision goes with torch, and with .pt2 models, only",
        ),
        (
            "version: 1\nfunctions: {f: {model: m.onnx, engine: torch}}\n",
            "node.yaml:2: functions.f: engine: torch does not run m.onnx; use onnxruntime,"
            " tensorrt, tensorrt_rtx",
        ),
        (
            "version: 1\nfunctions: {f: {model: m.pt2, engine: tensorrt}}\n",
            "node.yaml:2: functions.f: engine: tensorrt does not run m.pt2; use torch",
        ),
        (
            "version: 1\nfunctions: {f: {model: m.plan, engine: onnxruntime}}\n",
            "node.yaml:2: functions.f: engine: onnxruntime does not run m.plan; use"
            " tensorrt, tensorrt_rtx",
        ),
        (
            "version: 1\nfunctions: {f: {python: 'a:B', engine: tensorrt}}\n",
            "node.yaml:2: functions.f: engine goes with model only",
        ),
        (
            "version: 1\nfunctions: {f: {model: m.onnx, "
            "shapes: {x: {min: [1], opt: [1], max: [1]}}}}\n",
            "node.yaml:2: functions.f: shapes goes with engine tensorrt, tensorrt_rtx only",
        ),
        (
            "version: 1\nfunctions: {f: {model: m.plan, "
            "shapes: {x: {min: [2], opt: [1], max: [3]}}}}\n",
            "node.yaml:2: functions.f.shapes.x: no length of opt is below min or above"
            " max, as in {min: [-1, 16], opt: [-1, 128], max: [-1, 512]}",
        ),
        (
            "version: 1\nfunctions: {f: {model: m.plan, "
            "shapes: {x: {min: [1, -1], opt: [1, 2], max: [1, 2]}}}}\n",
            "node.yaml:2: functions.f.shapes.x: lengths are positive, or -1 first for rows,"
            " as in {min: [-1, 16], opt: [-1, 128], max: [-1, 512]}",
        ),
        (
            "version: 1\nfunctions: {f: {model: m.plan, "
            "shapes: {x: {min: [1], opt: [1, 2], max: [1, 2]}}}}\n",
            "node.yaml:2: functions.f.shapes.x: min, opt and max are of one form,"
            " as in {min: [-1, 16], opt: [-1, 128], max: [-1, 512]}",
        ),
        (
            "version: 1\nfunctions: {f: {model: m.plan, device: cpu}}\n",
            "node.yaml:2: functions.f.device: tensorrt runs on GPUs only;"
            " write device: auto, or cuda:0",
        ),
        (
            "version: 1\nfunctions: {f: {model: m.onnx, environment: {A: true}}}\n",
            "node.yaml:2: functions.f.environment: A must be text; put it in quotes, as in A: '1'",
        ),
        (
            "version: 1\nfunctions: {a/b: {model: m}}\n",
            "node.yaml:2: functions.a/b: 'a/b' cannot be a function's name; use up to 64 letters,"
            " digits, '.', '_' and '-'",
        ),
        (
            "version: 1\nfunctions: {f: {model: m, device: cpi}}\n",
            "node.yaml:2: functions.f.device: 'cpi' is not a device of this node;"
            " did you mean 'cpu'?",
        ),
        (
            "version: 1\nfunctions: {f: {model: m, queue: {request_max: 1GiB}}}\n",
            "node.yaml:2: functions.f.queue.request_max: 1GiB is more than node.request_max,"
            " 64MiB; raise that too",
        ),
        (
            "version: 1\nfunctions:\n"
            "  f: {identity: {inputs: [{name: X, dtype: F32, dims: [1]}]}}\n",
            "node.yaml:3: functions.f.identity.inputs.0: 'F32' is not a data type; use BOOL, UINT8,"
            " UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64, BYTES",
        ),
        (
            "version: 1\ndevices: {cuda:0: {limiter: cgroup}}\n",
            "node.yaml:2: devices.cuda:0.limiter: 'cgroup' limits cores; a GPU takes auto, mps,"
            " green or none",
        ),
        (
            "version: 1\ndevices: {cuda:0: {limiter: mps-static}}\n",
            "node.yaml:2: devices.cuda:0.limiter: 'mps-static' is not there yet; a GPU takes auto,"
            " mps, green or none",
        ),
        (
            "version: 1\ndevices: {cuda:0: {limiter: green, mps_pipe: /run/mps}}\n",
            "node.yaml:2: devices.cuda:0.mps_pipe: says nothing with `limiter: green`",
        ),
        (
            "version: 1\ndevices: {cuda:0: {limiter: green}}\nfunctions:\n"
            "  f: {python: m:C, environment: {CUDA_MPS_ACTIVE_THREAD_PERCENTAGE: 50}}\n",
            "node.yaml:4: functions.f.environment: cuda:0 is under `limiter: green`: all its"
            " functions are in one process, which has one environment",
        ),
        (
            "version: 1\ndevices: {cuda:0: {limiter: green}}\nfunctions:\n"
            "  f: {command: [sleep, '1'], device: cuda:0, share: 1%}\n",
            "node.yaml:4: functions.f.command: cuda:0 is under `limiter: green`: a program is a"
            " process of its own, which nothing limits there",
        ),
        (
            "version: 1\ndevices: {cuda:0: {limiter: green}}\nfunctions:\n"
            "  f: {torch: m:f, threads: 2}\n",
            "node.yaml:4: functions.f.threads: cuda:0 is under `limiter: green`: all its"
            " functions are in one process, where torch has one number of them",
        ),
        (
            "version: 1\ndevices: {cuda:0: {limiter: none, mps_pipe: /run/mps}}\n",
            "node.yaml:2: devices.cuda:0.mps_pipe: says nothing with `limiter: none`",
        ),
        (
            "version: 1\ndevices: {cpu: {share_weights: false}}\n",
            "node.yaml:2: devices.cpu.share_weights: goes with GPUs only",
        ),
        (
            "version: 1\ndevices: {cpu: {mps_pipe: /run/mps}}\n",
            "node.yaml:2: devices.cpu.mps_pipe: goes with GPUs only",
        ),
        (
            "version: 1\ndevices: {cpu: {limiter: mps}}\n",
            "node.yaml:2: devices.cpu.limiter: 'mps' limits GPUs; a CPU device takes auto, cgroup,"
            " threads or none",
        ),
        (
            "version: 1\ndevices: {cpu:5-2: {}}\n",
            "node.yaml:2: devices.cpu:5-2: '5-2' is not a range of cores; write it as 0-3",
        ),
        (
            "version: 1\ndevices: 5\n",
            "node.yaml:2: devices: must be a mapping, as in {key: value}, not 5",
        ),
        (
            "version: 1\ndevices: {gpu: {}}\n",
            "node.yaml:2: devices.gpu: is not a device; write cpu, cpu:0-1, cuda:0 or cuda:0/mig:0",
        ),
        ("version: 1\nversion: 1\n", "node.yaml:2: version: given twice; keep one"),
        ("a:\n\t- b\n", "node.yaml:2: a tab in the indentation; YAML takes spaces only"),
        ("- 1\n", "node.yaml:1: the file must be a mapping of keys to values"),
        ("a: *b\n", "node.yaml:1: not valid YAML: found undefined alias 'b'"),
    ],
)
def test_one_problem_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    assert problems(tmp_path / "node.yaml", text) == [told]


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("node: {hang_timeout: 0}", "node.hang_timeout: must be at least 100ms"),
        ("node: {hang_timeout: 99ms}", "node.hang_timeout: must be at least 100ms"),
        (
            "functions: {f: {model: m.onnx, idle_after: 1ms}}",
            "functions.f.idle_after: must be at least 100ms",
        ),
        ("node: {pinned_memory: 0}", "node.pinned_memory: must be a size or `auto`, not 0"),
        ("node: {request_max: 0B}", "node.request_max: must be at least 1B"),
        ("defaults: {queue: {request_max: 0}}", "defaults.queue.request_max: must be at least 1B"),
        ("defaults: {slo: {p99: 0ms}}", "defaults.slo.p99: must be a duration or `none`, not 0ms"),
        ("defaults: {batch: {max: 0}}", "defaults.batch.max: must be at least 1, or `auto`"),
        (
            "devices: {cpu: {limits: {memory: 0}}}",
            "devices.cpu.limits.memory: must be a size or `none`, not 0",
        ),
    ],
)
def test_nothing_is_not_taken_for_everything(tmp_path: Path, setting: str, told: str) -> None:
    text = f"version: 1\n{setting}\n"
    assert problems(tmp_path / "node.yaml", text) == [f"node.yaml:2: {told}"]


def test_all_problems_of_a_file_come_together_in_its_order(tmp_path: Path) -> None:
    text = """\
version: 1
node: {grpcc: 127.0.0.1:1, http: 1}
functions:
  a: {model: m, shar: 40%, device: gpu}
  b: {}
  c: {model: m, queue: {request_max: 1GiB, max: lots}}
  d: {model: m, device: cpi}
"""
    assert [line.split(" ")[0:2] for line in problems(tmp_path / "node.yaml", text)] == [
        ["node.yaml:2:", "node.http:"],
        ["node.yaml:2:", "node.grpcc:"],
        ["node.yaml:4:", "functions.a.shar:"],
        ["node.yaml:4:", "functions.a.device:"],
        ["node.yaml:5:", "functions.b:"],
        ["node.yaml:6:", "functions.c.queue.max:"],
        ["node.yaml:7:", "functions.d.device:"],
    ]


def test_cores_that_are_not_there(tmp_path: Path) -> None:
    (line,) = problems(tmp_path / "node.yaml", "version: 1\ndevices: {cpu:0-4000: {}}\n")
    assert "is not among this process's cores" in line


def test_cores_belong_to_one_device(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    text = f"version: 1\ndevices: {{cpu:{core}: {{}}, cpu: {{cpus: [{core}]}}}}\n"
    (line,) = problems(tmp_path / "node.yaml", text)
    assert line.endswith(f"devices.cpu: core {core} belongs to cpu:{core} already")

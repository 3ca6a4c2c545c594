"""The private descriptor pool: no clash with a client's modules, and the same bytes on the wire."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from gslice.protos import message, pool, service

SERVICE = "inference.GRPCInferenceService"
ROOT = Path(__file__).resolve().parents[2]

ROUND_TRIP = """
ours = message("inference.ModelInferRequest")(model_name="m", id="7", raw_input_contents=[b"abc"])
ours.parameters["timeout"].uint64_param = 5
ours.inputs.add(name="x", datatype="INT8", shape=[1, 3])
theirs = service_pb2.ModelInferRequest.FromString(ours.SerializeToString())
assert (theirs.model_name, theirs.parameters["timeout"].uint64_param) == ("m", 5), theirs
assert list(theirs.inputs[0].shape) == [1, 3] and theirs.raw_input_contents[0] == b"abc", theirs
theirs.outputs.add(name="y")
again = message("inference.ModelInferRequest").FromString(theirs.SerializeToString())
assert again.outputs[0].name == "y" and again.id == "7", again
assert type(ours).DESCRIPTOR.file.pool is not type(theirs).DESCRIPTOR.file.pool
"""


@pytest.mark.parametrize(
    "imports",
    [
        "from gslice.protos import message\nmessage('inference.ModelInferRequest')\n"
        "from tritonclient.grpc import service_pb2",
        "from tritonclient.grpc import service_pb2\nfrom gslice.protos import message",
    ],
    ids=["gslice first", "tritonclient first"],
)
def test_both_in_one_process(imports):
    done = subprocess.run(
        [sys.executable, "-c", imports + ROUND_TRIP], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


VALUES = {"string": "é", "bytes": b"\xff", "bool": True, "float": 0.5, "double": -1.5}


def filled(descriptor, depth=3):
    """A message with something in every field, as deep as asked for."""
    made = message(descriptor.full_name)()
    for field in descriptor.fields:
        inner = field.message_type
        if inner is not None and (depth == 0 or inner.GetOptions().map_entry):
            continue
        if inner is not None:
            value = filled(inner, depth - 1)
        elif field.enum_type is not None:
            value = field.enum_type.values[-1].number
        else:
            kind = descriptor_pb2.FieldDescriptorProto.Type.Name(field.type)
            value = VALUES.get(kind.removeprefix("TYPE_").lower(), 7)
        repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == 3
        if repeated:
            getattr(made, field.name).append(value)
        elif inner is not None:
            getattr(made, field.name).CopyFrom(value)
        else:
            setattr(made, field.name, value)
    return made


@pytest.mark.parametrize("name", ["kserve", "health", "reflection", "gslice_control"])
def test_every_message_survives_the_wire(name):
    for descriptor in pool().FindFileByName(f"{name}.proto").message_types_by_name.values():
        sent = filled(descriptor)
        data = sent.SerializeToString()
        assert message(descriptor.full_name).FromString(data) == sent
        is_plain = any(f.message_type is None for f in descriptor.fields)
        assert data or not is_plain, f"{descriptor.full_name} lost its fields"


def test_every_call_has_its_messages():
    for name in (SERVICE, "gslice.v1.Control", "grpc.health.v1.Health"):
        for method in service(name).methods:
            for kind in (method.input_type, method.output_type):
                assert message(kind.full_name).DESCRIPTOR is kind


def test_the_older_reflection_is_the_same_but_for_its_name():
    new, old = (pool().FindFileByName(f"reflection{end}.proto") for end in ("", "_v1alpha"))
    assert old.package == f"{new.package}alpha"
    for name, ours in new.message_types_by_name.items():
        theirs = old.message_types_by_name[name]
        assert [(f.name, f.number, f.type) for f in ours.fields] == [
            (f.name, f.number, f.type) for f in theirs.fields
        ]


def _fields(descriptor):
    for field in descriptor.fields:
        kind = field.message_type or field.enum_type
        oneof = field.containing_oneof
        yield (
            field.name,
            (
                field.number,
                field.type,
                field.is_repeated if hasattr(field, "is_repeated") else field.label == 3,
                kind.full_name if kind else None,
                oneof.name if oneof else None,
            ),
        )


def test_messages_match_the_clients():
    from tritonclient.grpc import model_config_pb2, service_pb2

    theirs = service_pb2.DESCRIPTOR.pool
    assert model_config_pb2.DESCRIPTOR.pool is theirs
    checked = 0
    pending = list(pool().FindFileByName("kserve.proto").message_types_by_name.values())
    while pending:
        ours = pending.pop()
        pending += ours.nested_types
        expected = dict(_fields(theirs.FindMessageTypeByName(ours.full_name)))
        for name, field in _fields(ours):
            assert expected[name] == field, f"{ours.full_name}.{name}"
            checked += 1
    assert checked > 100


def test_enums_match_the_clients():
    from tritonclient.grpc import model_config_pb2

    for name in ("inference.DataType", "inference.ModelInstanceGroup.Kind"):
        ours = pool().FindEnumTypeByName(name)
        theirs = model_config_pb2.DESCRIPTOR.pool.FindEnumTypeByName(name)
        values = {value.name: value.number for value in ours.values}
        assert values == {value.name: value.number for value in theirs.values}


def test_calls_match_the_clients():
    from tritonclient.grpc import service_pb2

    def calls(descriptor):
        return {
            method.name: (
                method.input_type.full_name,
                method.output_type.full_name,
                method.client_streaming,
                method.server_streaming,
            )
            for method in descriptor.methods
        }

    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert calls(service(SERVICE)) == calls(theirs)


def test_nothing_enters_the_default_pool():
    code = (
        "from google.protobuf import descriptor_pool\n"
        "from gslice.protos import message\n"
        "message('inference.ModelInferRequest'); message('grpc.health.v1.HealthCheckRequest')\n"
        "for name in ('kserve.proto', 'health.proto', 'reflection.proto'):\n"
        "    try:\n"
        "        descriptor_pool.Default().FindFileByName(name)\n"
        "    except KeyError:\n"
        "        continue\n"
        "    raise SystemExit(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def build():
    pytest.importorskip("grpc_tools", reason="grpcio-tools carries the compiler")
    spec = importlib.util.spec_from_file_location("protos_build", ROOT / "protos" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_sets_are_fresh(build):
    assert build.stale() == []


def test_a_set_without_its_field_would_be_stale(build):
    """The comparison behind the test above sees a change."""
    fresh = (ROOT / "gslice" / "protos" / "kserve.binpb").read_bytes()
    changed = descriptor_pb2.FileDescriptorSet.FromString(fresh)
    del changed.file[0].message_type[1].field[0]
    assert build.same(fresh, fresh)
    assert not build.same(fresh, changed.SerializeToString())

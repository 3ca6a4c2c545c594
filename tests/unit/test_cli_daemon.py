from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gslice import __version__
from tests.cli import failing, gslice
from tests.fakes.servers import FakeControl, control_message, control_server

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def control(state_dir: Path) -> Iterator[FakeControl]:
    with control_server(state_dir, FakeControl(example_status())) as servicer:
        yield servicer


def example_status() -> Any:
    status = control_message(
        "Status",
        version=__version__,
        pid=7,
        uptime_s=3725.0,
        state="SERVING",
        grpc_address="127.0.0.1:8001",
        state_dir="/state",
        config_path="/etc/node.yaml",
    )
    status.devices.add(
        name="cpu", kind="cpu", limiter="cgroup", cpus=[0, 1], share_limit_percent=100.0
    )
    status.frontends.add(
        pid=8, state="SERVING", rss_bytes=50 << 20, address="127.0.0.1:8001", kind="native"
    )
    detector = status.functions.add(
        name="detector",
        version="1",
        engine="onnxruntime",
        state="READY",
        device="cpu",
        limiter="cgroup",
        share_requested_percent=40.0,
        share_min_percent=40.0,
        share_max_percent=40.0,
        share_granted_percent=40.0,
        share_effective_percent=39.9,
        rate_per_s=123.4,
        p50_us=1500.0,
        p99_us=45_000.0,
        slo_p99_us=30_000.0,
        ok=2**40,
        queued=3,
    )
    detector.workers.add(pid=9, state="READY", restarts=2)
    status.functions.add(name="tagger", device="cpu", state="FAILED", reason="no module named tags")
    status.tenants.add(name="shop", share_percent=40.0, share_quota_percent=150.0)
    return status


# ---- no daemon -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "ps",
        "status",
        "load f",
        "unload f",
        "diff",
        "save",
        "logs",
        "events",
        "infer f 1",
        "bench f --rate 1",
        "profile f",
    ],
)
def test_without_a_daemon_it_is_told_how_to_start_one(command: str, state_dir: Path) -> None:
    assert failing(*command.split()) == [
        f"error: no daemon runs in {state_dir}",
        "hint: start one with `gslice serve`, or name its directory with --state-dir",
    ]


def test_the_node_yaml_here_tells_where_the_daemon_is(here: Path) -> None:
    (here / "node.yaml").write_text("version: 1\nnode: {state_dir: mine}\n")
    assert failing("ps")[0] == f"error: no daemon runs in {here}/mine"


def test_a_dead_daemons_socket(state_dir: Path) -> None:
    state_dir.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(state_dir / "control.sock"))
    assert failing("ps")[0] == f"error: the daemon of {state_dir} has ended"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["serve"], "there is no node.yaml here"),
        (["serve", "m.onnx"], "there is no file m.onnx"),
        (["serve", "m.onnx", "-c", "x"], "MODEL and --config exclude each other"),
        (["serve", "--share", "4%"], "--share goes with MODEL only"),
        (["load", "f", "--slo", "1ms"], "--slo needs a model to go with"),
        (["load", "f", "m", "-f", "x"], "MODEL and --file exclude each other"),
        (["load", "f", "-f", "x"], "x: No such file or directory"),
        (["load", "f", "-f", "empty.yaml"], "empty.yaml is empty"),
        (["bench", "f"], "give --rate for an open loop or --concurrency for a closed one"),
        (["bench", "f", "--rate", "1", "--duration", "3"], "'3' has no unit; write it as 30ms"),
        (["infer", "f", "1", "--scale", "x"], "--scale x: no such scale"),
    ],
)
def test_wrong_options_are_named(args: list[str], told: str, here: Path) -> None:
    (here / "empty.yaml").write_text("\n")
    assert failing(*args)[0].startswith(f"error: {told}")


# ---- a daemon ------------------------------------------------------------------------------------


def test_ps(control: FakeControl) -> None:
    head, detector, tagger, reason = gslice("ps").stdout.splitlines()
    assert head.split()[:4] == ["FUNCTION", "STATE", "RATE/S", "P50"]
    assert " ".join(detector.split()) == (
        "detector READY 123.4 1.50 ms 45.0 ms 30.0 ms 40% 40% 40% 3 9 (2 restarts)"
    )
    assert tagger.split()[:4] == ["tagger", "FAILED", "0.0", "-"]
    assert max(map(len, (head, detector, tagger))) < 110, "too wide for a terminal"
    assert reason == "tagger: no module named tags"


def test_status_shows_the_node(control: FakeControl) -> None:
    shown = gslice("status").stdout
    assert f"gslice {__version__}, serving, pid 7, up 1h 2m" in shown
    assert "cgroup" in shown
    assert "50.0 MiB" in shown
    assert "1099511627776" in shown
    assert "tenants' shares: shop has 40% of 150%" in shown


@pytest.mark.parametrize("command", ["ps", "status"])
def test_status_as_json_has_every_field_as_a_number(control: FakeControl, command: str) -> None:
    shown = json.loads(gslice(command, "--json").stdout)
    assert shown["pid"] == 7
    assert shown["functions"][0]["ok"] == 2**40
    assert shown["functions"][0]["workers"] == [
        {
            "pid": 9,
            "state": "READY",
            "rss_bytes": 0,
            "restarts": 2,
            "address": "",
            "device": "",
            "kind": "",
            "tls": False,
        }
    ]
    assert shown["functions"][1]["reason"] == "no module named tags"


def test_watching_as_json_is_a_line_each(control: FakeControl) -> None:
    lines = gslice("ps", "--watch", "--json").stdout.splitlines()
    assert [json.loads(line)["pid"] for line in lines] == [7, 7]


def test_watching_shows_the_last_events(control: FakeControl) -> None:
    for number in range(4):
        control.status.events.add(subject="detector", kind="crash", text=f"event {number}")
    shown = gslice("status", "--watch").stdout.splitlines()
    assert [line.split()[-1] for line in shown[-5:]] == ["3", "0", "1", "2", "3"]
    assert "event" not in gslice("status").stdout


def test_load_shows_stages_and_sends_where_paths_start(control: FakeControl, here: Path) -> None:
    shown = gslice("load", "f", "m.onnx", "--share", "40%", "--slo", "30ms").stdout
    assert shown.splitlines() == [" 0.500 ms  plan      share 40%", "   1.23 s  done"]
    assert control.asked[0].name == "f"
    body = {"model": "m.onnx", "share": "40%", "slo": {"p99": "30ms"}}
    assert json.loads(control.asked[0].function_yaml) == body
    assert control.asked[0].base_dir == str(here)


# ---- drain -------------------------------------------------------------------------------------


def test_a_drain_tells_who_went_and_who_stays(control: FakeControl) -> None:
    shown = gslice("drain", "cpu:0-0").stdout
    assert "moved     detector: to cpu:1-1" in shown
    assert "stay      tagger: pinned to it" in shown
    assert shown.endswith("nothing new is placed on cpu:0-0, until `gslice undrain cpu:0-0`\n")
    stages = json.loads(gslice("drain", "cpu:0-0", "--json").stdout)
    assert [stage["name"] for stage in stages] == ["moved", "stay", "done"]
    assert "done" in gslice("undrain", "cpu:0-0").stdout
    assert [(asked.device, asked.undo) for asked in control.asked[1:]] == [
        ("cpu:0-0", False),
        ("cpu:0-0", True),
    ]


def test_a_drain_that_fails_says_where_to_read_of_moves(control: FakeControl) -> None:
    assert gslice("drain", "broken", status=1).stderr.splitlines() == [
        "error: broken: the daemon is stopping",
        "hint: see more with `gslice events --kind move`",
    ]


def test_a_drained_device_is_named(control: FakeControl) -> None:
    assert "drained" not in gslice("status").stdout
    control.status.devices[0].drained = True
    assert "cpu: drained; `gslice undrain cpu` takes that back" in gslice("status").stdout


def test_what_shared_weights_save_is_on_their_gpus_line(control: FakeControl) -> None:
    gpu = control.status.devices.add(name="cuda:0", kind="cuda").gpu
    gpu.name, gpu.sms, gpu.weights_saved_bytes = "NVIDIA H100", 132, 512 << 20
    (line,) = (t for t in gslice("status").stdout.splitlines() if t.startswith("cuda:0: "))
    assert line.endswith("512.0 MiB saved by shared weights")


# ---- resize --------------------------------------------------------------------------------------


def resized(**fields: Any) -> Any:
    swaps = [control_message("Swap", **swap) for swap in fields.pop("swaps", [])]
    done = control_message("Stage", name="done", elapsed_ms=900.0)
    done.resized.CopyFrom(control_message("Resized", swaps=swaps, **fields))
    return done


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {
                "path": "shadow",
                "prepare_ms": 812.0,
                "extra_memory_bytes": 64 << 20,
                "swaps": [{"flip_us": 8.2, "hole_us": 14.0}, {"flip_us": 9.1, "hole_us": -1}],
            },
            "f has 40%: shadow warm after 0.81 s and 64.0 MiB, flip 9 us; "
            "first request waited 14 us",
        ),
        ({"path": "in place"}, "f has 40%, changed in place"),
        ({"path": "none"}, "f has 40% already"),
    ],
)
def test_a_resize_tells_what_it_did(
    control: FakeControl, fields: dict[str, Any], told: str
) -> None:
    control.stages[1] = resized(share_effective_percent=40.0, **fields)
    shown = gslice("resize", "f", "40%", "--wait").stdout.splitlines()
    assert shown == [" 0.500 ms  plan      share 40%", "   900 ms  done", told]
    assert (control.asked[0].share, control.asked[0].dry_run) == ("40%", False)


def test_a_resize_that_nobody_waits_for(control: FakeControl) -> None:
    assert gslice("resize", "f", "40%").stdout == "f: share 40%; `--wait` shows the stages\n"
    assert json.loads(gslice("resize", "f", "40%", "--json").stdout)["name"] == "plan"


def test_a_dry_run_of_a_resize(control: FakeControl) -> None:
    del control.stages[1]
    assert gslice("resize", "f", "auto", "--dry-run").stdout == " 0.500 ms  plan      share 40%\n"
    assert control.asked[0].dry_run


# ---- versions ------------------------------------------------------------------------------------


def test_versions_are_listed(control: FakeControl) -> None:
    assert gslice("versions", "f").stdout == "no version of f has served yet\n"
    control.versions = [
        control_message(
            "Version",
            number="12",
            state="serving",
            model="/models/f.onnx",
            fingerprint="0123456789abcdef" * 4,
            first_served_s=86400.0,
            served_s=90061.0,
        )
    ]
    title, row = gslice("versions", "f").stdout.splitlines()
    assert title.split("  ")[0] == "VERSION"
    first, last = (
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s)) for at_s in (86400, 90061)
    )
    told = ["12", "serving", first, last, "0123456789ab", "/models/f.onnx"]
    assert row.split() == " ".join(told).split()
    (shown,) = json.loads(gslice("versions", "f", "--json").stdout)
    assert (shown["number"], shown["fingerprint"]) == ("12", "0123456789abcdef" * 4)


def test_a_rollback_shows_its_stages(control: FakeControl) -> None:
    shown = gslice("rollback", "f", "3").stdout.splitlines()
    assert shown == [" 0.500 ms  plan      share 40%", "   1.23 s  done"]
    gslice("rollback", "f")
    done = control.stages.pop()
    gslice("rollback", "f", "latest", "--dry-run", "--json")
    control.stages.append(done)
    asked = [(each.name, each.version, each.dry_run) for each in control.asked]
    assert asked == [("f", "3", False), ("f", "", False), ("f", "latest", True)]
    control.stages[-1] = control_message("Stage", name="failed", detail="function f: no such file")
    assert "error: f: no such file" in gslice("rollback", "f", status=1).stderr


def test_load_from_a_file_starts_its_paths_there(control: FakeControl, here: Path) -> None:
    (here / "sub").mkdir()
    text = "python: tag.py:Tagger\nlanes: 2  # the default, and so meant\n"
    (here / "sub/f.yaml").write_text(text)
    gslice("load", "f", "-f", "sub/f.yaml")
    assert control.asked[0].function_yaml == text
    assert control.asked[0].base_dir == f"{here}/sub"


def test_load_of_what_is_declared_sends_no_text(control: FakeControl) -> None:
    stages = json.loads(gslice("load", "f", "--json").stdout)
    assert [stage["name"] for stage in stages] == ["plan", "done"]
    assert control.asked[0].function_yaml == ""


def test_a_load_that_fails(control: FakeControl) -> None:
    control.stages[-1] = control_message("Stage", name="failed", detail="m.onnx is empty")
    result = gslice("load", "f", status=1)
    assert result.stderr.splitlines() == [
        "error: f: m.onnx is empty",
        "hint: see more with `gslice logs f`",
    ]


@pytest.mark.parametrize("stages", [0, 1], ids=["nothing", "a stage"])
def test_an_order_that_nobody_answers_has_not_been_done(control: FakeControl, stages: int) -> None:
    del control.stages[stages:]
    for order in ("load f", "unload f", "resize f 4% --wait", "rollback f"):
        assert gslice(*order.split(), status=1).stderr.splitlines() == [
            "error: f: the daemon does not say what became of it",
            "hint: see `gslice events`",
        ]


def test_errors_of_the_daemon_come_through(control: FakeControl) -> None:
    assert failing("unload", "absent") == ["error: no function absent is declared"]


def test_diff_and_save(control: FakeControl) -> None:
    assert gslice("diff").stdout == "what runs is what node.yaml says\n"
    assert gslice("save").stdout == "nothing to save; /etc/node.yaml says what runs\n"
    change = {"path": "functions.f.share", "file_value": "auto", "running_value": "40%"}
    control.changes = [control_message("Change", **change)]
    assert gslice("diff").stdout.splitlines()[1].split() == list(change.values())
    assert json.loads(gslice("diff", "--json").stdout) == [change]
    assert gslice("save").stdout.splitlines()[-1] == "wrote 1 change into /etc/node.yaml"
    assert "dropped 1 change" in gslice("save", "--discard-overlay").stdout
    assert [request.discard_overlay for request in control.asked] == [False, False, True]


def test_without_a_node_yaml_nobody_is_told_to_save(control: FakeControl) -> None:
    control.status.config_path = ""
    assert gslice("diff").stdout == "what runs is what the command line says\n"
    control.changes = [control_message("Change", path="functions.f.share", running_value="40%")]
    assert gslice("diff").stdout.splitlines()[-1] == "`gslice save --discard-overlay` drops this"


def test_save_tells_what_an_edit_overruled(control: FakeControl) -> None:
    control.overruled = ["f"]
    assert gslice("save").stderr == (
        "warning: f was edited in /etc/node.yaml meanwhile, and runs as that says\n"
    )


def test_save_waits_for_what_it_loads(control: FakeControl) -> None:
    gslice("diff")
    gslice("save", "--discard-overlay")
    assert control.time_left_s["Diff"] < 60
    assert control.time_left_s["Save"] > 1e6


def test_logs(control: FakeControl) -> None:
    assert gslice("logs", "detector", "-n", "5").stdout == "one\ntwo\n"
    assert (control.asked[0].name, control.asked[0].lines) == ("detector", 5)

"""What MPS's programs and logs say, read; and what its clients are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from gslice.core.errors import FailedPrecondition, Unavailable
from gslice.device.mps import (
    CONTROL,
    MpsControl,
    MpsPaths,
    client_environment,
    culprits_of,
    find_control,
    find_program,
    pids_of,
    status_of,
    tells_fault,
)


def program(path: Path, script: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def paths(tmp_path: Path) -> MpsPaths:
    return MpsPaths(tmp_path / "pipe", tmp_path / "log")


# ---- answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pids"),
    [
        ("", []),
        ("\n", []),
        ("4711\n", [4711]),
        (" 12 \n13\n\n", [12, 13]),
        ("PID\n12\n", [12]),
        ("12 is not alone\n", []),
    ],
)
def test_lists_of_processes(text: str, pids: list[int]) -> None:
    assert pids_of(text) == pids


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("ACTIVE\n", "ACTIVE"),
        ("FAULT", "FAULT"),
        ("Server 12 status: INITIALIZING\n", "INITIALIZING"),
        ("", ""),
    ],
)
def test_statuses(text: str, status: str) -> None:
    assert status_of(text) == status


def test_a_command_goes_to_the_daemon_of_its_directory(paths: MpsPaths, tmp_path: Path) -> None:
    script = 'read line; [ "$line" = "get_client_list 7" ] && echo 21 && echo 22'
    script += f'; echo "$CUDA_MPS_PIPE_DIRECTORY" > {tmp_path}/seen'
    control = MpsControl(program(tmp_path / CONTROL, script), paths)
    assert control.clients(7) == [21, 22]
    assert (tmp_path / "seen").read_text().strip() == str(paths.pipe)


def test_nobody_in_the_directory(paths: MpsPaths, tmp_path: Path) -> None:
    script = "echo 'Cannot find MPS control daemon process' >&2; exit 1"
    control = MpsControl(program(tmp_path / CONTROL, script), paths)
    with pytest.raises(Unavailable, match=f"no MPS control daemon answers in {paths.pipe}"):
        control.servers()


@pytest.mark.parametrize("script", ["echo 'Invalid percentage: 200'", "exit 3"])
def test_a_refusal_has_the_daemon_s_words(script: str, paths: MpsPaths, tmp_path: Path) -> None:
    control = MpsControl(program(tmp_path / CONTROL, script), paths)
    with pytest.raises(FailedPrecondition, match="MPS refused 'terminate_client 1 2': ") as raised:
        control.terminate(1, 2)
    assert raised.value.message.endswith(("Invalid percentage: 200", "without a word"))


def test_a_program_that_cannot_run(paths: MpsPaths, tmp_path: Path) -> None:
    control = MpsControl(str(tmp_path / "nothing"), paths)
    with pytest.raises(FailedPrecondition, match="nothing: No such file or directory"):
        control.quit()


def test_percentages_of_our_own_environment_do_not_reach_the_daemon(
    paths: MpsPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "10")
    environment = MpsControl(str(tmp_path / CONTROL), paths).environment()
    assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" not in environment
    assert environment["PATH"].endswith(f":{tmp_path}")


# ---- programs ----------------------------------------------------------------------------------


def test_programs_on_the_path_and_beside_the_driver(tmp_path: Path) -> None:
    on_path = program(tmp_path / "path" / CONTROL, "exit 0")
    beside = program(tmp_path / "driver" / "nvidia-smi", "exit 0")
    library = str(tmp_path / "driver" / "libcuda.so.1")
    environ = {"PATH": str(tmp_path / "path")}
    assert find_program(CONTROL, library, environ) == on_path
    assert find_program("nvidia-smi", library, environ) == beside
    assert find_program("nvidia-no-such-program", library, environ) == ""


def test_without_the_program_there_is_no_mps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("gslice.device.mps._FOLDERS", ())
    with pytest.raises(FailedPrecondition, match=f"{CONTROL} is neither on the PATH nor"):
        find_control()
    program(tmp_path / CONTROL, "exit 0")
    assert find_control() == str(tmp_path / CONTROL)


# ---- clients -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share_percent", "text"), [(25.0, "25"), (100.0, "100"), (33.3333333, "33.333"), (0.5, "0.5")]
)
def test_a_share_as_mps_reads_it(paths: MpsPaths, share_percent: float, text: str) -> None:
    found = client_environment(paths, share_percent, 0, low_priority=False)
    assert found["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == text
    assert found["CUDA_MPS_PIPE_DIRECTORY"] == str(paths.pipe)
    assert found["CUDA_MPS_CLIENT_PRIORITY"] == "0"
    assert "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT" not in found


def test_a_memory_limit_and_a_low_priority(paths: MpsPaths) -> None:
    found = client_environment(paths, 10, 3 << 30, low_priority=True)
    assert found["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=3072M"
    assert found["CUDA_MPS_CLIENT_PRIORITY"] == "1"


def test_the_operator_s_daemon_keeps_its_logs_to_itself() -> None:
    paths = MpsPaths(Path("/run/mps"), None)
    assert paths.environment == {"CUDA_MPS_PIPE_DIRECTORY": "/run/mps"}
    assert paths.server_log is None


def test_a_directory_too_deep_for_sockets() -> None:
    MpsPaths(Path("/" + "d" * 60), None).check()
    with pytest.raises(FailedPrecondition, match="the path is 12 bytes too long"):
        MpsPaths(Path("/" + "d" * 99), None).check()


# ---- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "culprits"),
    [
        (["[2026-01-01 Server 9] Client 12 disconnected"], []),
        (["Server 9] Fatal GPU fault caused by client {PID: 12, Context ID: 1}"], [12]),
        (["Server 9] client 12 generated an MMU fault", "affected clients: client 13"], [12]),
        (["Illegal address, PID 13", "fault of client 12"], [13, 12]),
        (["Server 9] fatal exception"], []),
        (["fault of client 99"], []),
    ],
)
def test_whom_a_log_blames(lines: list[str], culprits: list[int]) -> None:
    assert culprits_of(lines, {12, 13}) == culprits


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("Server 9] Volta MPS Server is handling a fatal GPU fault.", True),
        ("Server 9] Server 9 encountered a fatal exception. Status: FAULT", True),
        ("Server 9] Volta MPS Server has recovered from a fatal GPU fault", False),
        ("Server 9] Client 12 disconnected", False),
    ],
)
def test_which_lines_tell_of_a_fault(line: str, told: bool) -> None:
    assert tells_fault(["Server 9] New client 12 connected", line]) is told

"""What the page asks of its front-end, without a browser: files, figures, orders, and who may."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from gslice.core.errors import InvalidArgument, ResourceExhausted
from gslice.frontend.ui.feed import VIEWERS_MAX
from gslice.frontend.ui.guard import HEADER
from gslice.ipc.messages import REST, DrainFrontend, Ok
from gslice.protos import message
from tests.contract.direct import WAIT_S, FrontendProcess
from tests.contract.rest import call
from tests.ui.control_daemon import ControlDaemon, status

OURS = {HEADER: "1", "Content-Type": "application/json"}
RESIZE = "/ui/api/functions/a/resize"


@pytest.fixture(scope="module")
def one_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlDaemon]:
    daemon = ControlDaemon(tmp_path_factory.mktemp("daemon") / "control.sock").start()
    yield daemon
    daemon.stop()


@pytest.fixture
def daemon(one_daemon: ControlDaemon) -> ControlDaemon:
    """The daemon of all tests, which knows of none that came before."""
    one_daemon.forget()
    one_daemon.tell(status("a", "b"))
    return one_daemon


@pytest.fixture(scope="module")
def frontend(
    tmp_path_factory: pytest.TempPathFactory, one_daemon: ControlDaemon
) -> Iterator[FrontendProcess]:
    process = FrontendProcess(
        tmp_path_factory.mktemp("frontend"), REST, "--control", str(one_daemon.path)
    )
    assert process.hello.page
    process.serve()
    yield process
    process.close()


class Events:
    """A stream of events that is being read."""

    def __init__(self, address: str, path: str = "/ui/api/live", **headers: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=WAIT_S)
        self._connection.request("GET", path, headers=headers)
        self.answer = self._connection.getresponse()

    def next(self) -> tuple[str, Any] | None:
        """The next one; None: the stream has ended."""
        fields: dict[bytes, bytes] = {}
        while line := self.answer.readline().rstrip(b"\n"):
            fields |= [line.split(b": ", 1)]
        if not fields:
            return None
        return fields[b"event"].decode(), json.loads(fields[b"data"])

    def wait(self, name: str) -> Any:
        """The data of the next event of that name."""
        while (event := self.next()) is not None:
            if event[0] == name:
                return event[1]
        raise AssertionError(f"the stream ended without {name}")

    def close(self) -> None:
        self.answer.close()
        self._connection.close()


def stages(body: bytes) -> list[Any]:
    return [json.loads(line[6:]) for line in body.decode().splitlines() if line[:6] == "data: "]


# ---- files ---------------------------------------------------------------------------------------


def test_files_come_with_what_keeps_others_scripts_out(frontend) -> None:
    bare = call(frontend.address, "GET", "/ui")
    assert (bare.status, bare.headers["Location"]) == (308, "ui/")
    page = call(frontend.address, "GET", "/ui/")
    assert (page.status, page.headers["Content-Type"].split(";")[0]) == (200, "text/html")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    script = call(frontend.address, "GET", "/ui/app.js")
    assert (script.status, script.headers["Content-Type"].split(";")[0]) == (200, "text/javascript")
    again = call(
        frontend.address, "GET", "/ui/app.js", headers={"If-None-Match": script.headers["ETag"]}
    )
    assert (again.status, again.body) == (304, b"")
    for path in ("/ui/nothing.js", "/ui/..%2fguard.py", "/ui/%2e%2e/page.py"):
        assert call(frontend.address, "GET", path).status == 404


def test_a_front_end_without_the_page(tmp_path) -> None:
    process = FrontendProcess(tmp_path, REST)
    assert not process.hello.page
    process.serve()
    assert call(process.address, "GET", "/ui/").status == 404
    process.close()


# ---- what happens --------------------------------------------------------------------------------


def test_figures_and_events_come_as_they_happen(frontend, daemon) -> None:
    event = message("gslice.v1.Event")
    daemon.past = [event(id=1, kind="load", subject="a", text="loaded")]
    events = Events(frontend.address)
    assert events.answer.headers["Content-Type"].startswith("text/event-stream")
    assert events.next() == ("history", {"samples": []})
    assert [each["id"] for each in events.wait("events")] == [1]
    told = events.wait("status")
    assert [each["name"] for each in told["functions"]] == ["a", "b"]
    assert "events" not in told or told["events"] == []
    news = status("a")
    news.events.add(id=1, kind="load", subject="a", text="loaded")
    news.events.add(id=2, kind="swap", subject="a", text="swap after 3.0 ms")
    daemon.tell(news)
    assert [(each["id"], each["kind"]) for each in events.wait("events")] == [(2, "swap")]
    assert [each["name"] for each in events.wait("status")["functions"]] == ["a"]
    later = Events(frontend.address)
    (first, *_) = later.wait("history")["samples"]
    assert first["functions"]["a"] == [0, 0, 0, 0, 25]
    assert [each["id"] for each in later.wait("events")] == [1, 2]
    assert daemon.watching == 1  # one for all
    events.close()
    later.close()


def test_a_daemon_that_goes_and_comes_again(frontend, daemon) -> None:
    events = Events(frontend.address)
    events.wait("status")
    daemon.stop()
    assert "daemon" in events.wait("away")["text"]
    daemon.start()
    assert [each["name"] for each in events.wait("status")["functions"]] == ["a", "b"]
    events.close()


def test_streams_end_when_the_front_end_goes(tmp_path, daemon) -> None:
    """A page that is open must not hold up a stop or an upgrade."""
    process = FrontendProcess(tmp_path, REST, "--control", str(daemon.path))
    events = Events(process.serve())
    events.wait("status")
    drained = process.begin(DrainFrontend(timeout_ms=600_000))
    while events.next() is not None:
        pass
    assert drained() == Ok()
    events.close()
    process.close()


def test_so_many_pages_and_no_more(frontend) -> None:
    open_ = [Events(frontend.address) for _ in range(VIEWERS_MAX)]
    refused = call(frontend.address, "GET", "/ui/api/live")
    assert refused.status == 429
    assert f"{VIEWERS_MAX} pages are open" in refused.error
    for each in open_:
        each.close()


def test_a_profile(frontend, daemon) -> None:
    daemon.profile = message("gslice.v1.ProfileResult")(name="a", device="cpu", error_percent=2)
    daemon.profile.curves.add(bucket=1, knee_percent=40, shares_percent=[10, 100])
    found = call(frontend.address, "GET", "/ui/api/functions/a/profile").json
    assert (found["name"], found["curves"][0]["knee_percent"]) == ("a", 40)


# ---- orders --------------------------------------------------------------------------------------


def test_the_stages_of_a_resize(frontend, daemon) -> None:
    daemon.stages = [("plan", "shadow: a 25% -> 40%"), ("swap", ""), ("done", "")]
    answer = call(frontend.address, "POST", RESIZE, {"share": "40%"}, OURS)
    assert answer.status == 200
    assert [each["name"] for each in stages(answer.body)] == ["plan", "swap", "done"]
    ((method, request),) = daemon.orders
    assert (method, request.name, request.share, request.dry_run) == ("Resize", "a", "40%", False)


@pytest.mark.parametrize(
    ("path", "body", "method", "fields"),
    [
        ("functions/a/resize", {"share": "auto", "dry_run": True}, "Resize", {"dry_run": True}),
        ("functions/a/load", {}, "Load", {"name": "a", "function_yaml": ""}),
        ("functions/a/unload", {}, "Unload", {"name": "a"}),
        ("drain", {"device": "cuda:0/mig:1"}, "Drain", {"device": "cuda:0/mig:1", "undo": False}),
        ("drain", {"device": "cpu", "undo": True}, "Drain", {"device": "cpu", "undo": True}),
    ],
)
def test_orders_reach_the_daemon(
    frontend, daemon, path: str, body: Any, method: str, fields: dict[str, Any]
) -> None:
    assert call(frontend.address, "POST", f"/ui/api/{path}", body, OURS).status == 200
    ((found, request),) = daemon.orders
    assert found == method
    assert {key: getattr(request, key) for key in fields} == fields


@pytest.mark.parametrize(
    ("error", "code"),
    [(ResourceExhausted("a 80% + b 30% = 110%"), 429), (InvalidArgument("a share is auto"), 400)],
)
def test_what_the_daemon_refuses_is_told(frontend, daemon, error: Exception, code: int) -> None:
    daemon.stages = error
    answer = call(frontend.address, "POST", RESIZE, {"share": "80%"}, OURS)
    assert (answer.status, answer.error) == (code, str(error))


def test_an_order_without_a_daemon(frontend, daemon) -> None:
    daemon.stop()
    answer = call(frontend.address, "POST", RESIZE, {"share": "80%"}, OURS)
    assert answer.status == 503
    assert "the daemon is away" in answer.error
    daemon.start()


# ---- who may -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "code", "words"),
    [
        ({}, 403, "from its own page only"),
        ({"Content-Type": "application/json"}, 403, "from its own page only"),
        ({**OURS, "Origin": "http://evil.example"}, 403, "from its own page only"),
        ({**OURS, "Origin": "null"}, 403, "from its own page only"),
        ({**OURS, "Sec-Fetch-Site": "cross-site"}, 403, "from its own page only"),
        ({**OURS, "Sec-Fetch-Site": "same-site"}, 403, "from its own page only"),
        ({**OURS, "Content-Type": "text/plain"}, 400, "must be JSON"),
        ({**OURS, "Host": "rebound.example:80"}, 403, "under the name 'rebound.example'"),
    ],
)
def test_orders_are_taken_from_our_page_only(
    frontend, daemon, headers: dict[str, str], code: int, words: str
) -> None:
    answer = call(frontend.address, "POST", RESIZE, {"share": "40%"}, headers)
    assert answer.status == code
    assert words in answer.error
    assert daemon.orders == []


@pytest.mark.parametrize("name", ["rebound.example", "localhost.example:8000", "127.0.0.1.example"])
def test_nothing_is_shown_under_a_name_that_is_not_ours(frontend, name: str) -> None:
    for path in ("session", "live", "functions/a/profile"):
        answer = call(frontend.address, "GET", f"/ui/api/{path}", headers={"Host": name})
        assert answer.status == 403
        assert "nothing is answered under the name" in answer.error


@pytest.mark.parametrize("name", ["localhost:9", "[::1]:9", "10.1.2.3", "node.localhost"])
def test_names_that_only_we_can_have(frontend, name: str) -> None:
    session = call(frontend.address, "GET", "/ui/api/session", headers={"Host": name})
    assert session.status == 200
    assert session.json["may_change"] is True


def test_a_port_that_others_reach_shows_and_changes_nothing(tmp_path, daemon) -> None:
    process = FrontendProcess(tmp_path, REST, "--control", str(daemon.path))
    port = process.serve("0.0.0.0:0").rpartition(":")[2]
    address = f"127.0.0.1:{port}"
    session = call(address, "GET", "/ui/api/session").json
    assert session["may_change"] is False
    assert "reachable from other machines" in session["why_not"]
    refused = call(address, "POST", RESIZE, {"share": "40%"}, OURS)
    assert refused.status == 403
    assert refused.error == session["why_not"]
    assert daemon.orders == []
    process.close()

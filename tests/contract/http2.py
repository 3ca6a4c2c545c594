"""An HTTP/2 client for what no gRPC client would send, and for what one does not show."""

from __future__ import annotations

import socket
import ssl
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

import h2.config
import h2.connection
import h2.events
import h2.settings
import numpy as np
from tritonclient.grpc import service_pb2

from tests.contract.direct import WAIT_S

GOAWAY = 7  # a frame's type
CALL = "/inference.GRPCInferenceService/ModelInfer"
X = np.arange(4, dtype=np.float32).tobytes()
Event = TypeVar("Event", bound=h2.events.Event)


def framed(message: bytes, *, compressed: bool = False) -> bytes:
    """A message as gRPC puts it into DATA frames."""
    return bytes([compressed]) + len(message).to_bytes(4, "big") + message


def request(raw: bytes = X, elements: int = 4, name: str = "echo") -> bytes:
    """A request to a function of `direct.signature`, as it travels."""
    made = service_pb2.ModelInferRequest(model_name=name)
    made.inputs.add(name="x", datatype="FP32", shape=[1, elements])
    made.raw_input_contents.append(raw)
    return bytes(made.SerializeToString())


def connect(address: str) -> socket.socket:
    """A bare connection to host:port."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), WAIT_S)


@dataclass
class Answer:
    """What has come on a stream.

    Attributes:
        headers: First ones.
        body: All DATA.
        trailers: Last headers; of an answer without a message these are the first ones, too.
        reset: The code of its RST_STREAM; None: there was none.
        ended: Nothing more comes.
    """

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    reset: int | None = None
    ended: bool = False

    @property
    def status(self) -> int | None:
        """gRPC's; None: it gave none."""
        given = self.trailers.get("grpc-status", self.headers.get("grpc-status"))
        return None if given is None else int(given)

    @property
    def message(self) -> bytes:
        """The only message."""
        assert self.status == 0, self
        assert self.body == framed(self.body[5:]), self.body[:16]
        return self.body[5:]


def output(answer: Answer) -> bytes:
    """The tensor of an answer that has one."""
    response = service_pb2.ModelInferResponse.FromString(answer.message)
    return bytes(response.raw_output_contents[0])


class Http2:
    """A connection.

    Args:
        address: host:port.
        context: For TLS.
        settings: Ours, by their number, instead of the usual.
    """

    def __init__(
        self,
        address: str,
        context: ssl.SSLContext | None = None,
        settings: dict[Any, int] | None = None,
    ) -> None:
        self.socket = connect(address)
        if context is not None:
            host = address.rpartition(":")[0]
            self.socket = context.wrap_socket(self.socket, server_hostname=host)
        config = h2.config.H2Configuration(
            client_side=True,
            header_encoding="utf-8",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.state = h2.connection.H2Connection(config)
        if settings:
            self.state.local_settings = h2.settings.Settings(client=True, initial_values=settings)
        self.events: list[h2.events.Event] = []
        self.answers: dict[int, Answer] = defaultdict(Answer)
        self.closed = False
        self._received = b""
        self.goaways: list[int] = []  # their error codes
        self.state.initiate_connection()
        self.flush()

    def __enter__(self) -> Http2:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()

    def flush(self) -> None:
        """Sends what is to be sent."""
        try:
            self.socket.sendall(self.state.data_to_send())
        except ConnectionError:
            self.closed = True

    def call(self, message: bytes | None = None, path: str = CALL, **fields: str) -> int:
        """Begins a call.

        Args:
            message: Its only one, which ends it; None: data is to come.
            path: Whom it is for.
            fields: Header fields that replace or add to the usual; `_` stands for `-`.

        Returns:
            Its stream.
        """
        usual = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "localhost",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        headers = usual | {name.replace("_", "-"): value for name, value in fields.items()}
        return self.send(list(headers.items()), None if message is None else framed(message))

    def send(self, headers: list[tuple[str, str]], body: bytes | None) -> int:
        """Begins a call with exactly these headers; a body ends it."""
        stream: int = self.state.get_next_available_stream_id()
        self.state.send_headers(stream, headers)
        if body is not None:
            self.state.send_data(stream, body, end_stream=True)
        self.flush()
        return stream

    def data(self, stream: int, data: bytes, **how: Any) -> None:
        """Sends more of a call; `how` as h2's `send_data` takes it."""
        self.state.send_data(stream, data, **how)
        self.flush()

    def upload(self, stream: int, body: bytes) -> None:
        """Sends the rest of a call, as the server makes room for it."""

        def room() -> int:
            return min(self.state.local_flow_control_window(stream), 16384)

        while body and not self.answers[stream].ended:
            self.receive_until(lambda: room() > 0 or self.answers[stream].ended)
            part, body = body[: room()], body[room() :]
            self.data(stream, part, end_stream=not body)

    def answer(self, stream: int) -> Answer:
        """Waits for the end of a call."""
        self.receive_until(lambda: self.answers[stream].ended or self.closed)
        return self.answers[stream]

    def wait(self, kind: type[Event]) -> Event:
        """The first event of a kind."""

        def found() -> list[Event]:
            return [event for event in self.events if isinstance(event, kind)]

        self.receive_until(lambda: bool(found()) or self.closed)
        assert found(), f"the connection ended, after {self.events}"
        return found()[0]

    def wait_closed(self) -> None:
        """Returns when the server has ended the connection."""
        self.receive_until(lambda: self.closed)

    def receive_until(self, condition: Callable[[], bool]) -> None:
        """Takes what comes; what is heard of the connection's end is a condition too."""
        while not (self.closed or condition()):
            try:
                received = self.socket.recv(65536)
            except ConnectionResetError:
                received = b""
            self.closed = not received
            self._received += received
            while frame := self._next_frame():
                if frame[3] == GOAWAY:  # h2 would take no more, and calls in flight still end well
                    self.goaways.append(int.from_bytes(frame[13:17], "big"))
                    continue
                for event in self.state.receive_data(frame):
                    self._note(event)
            self.flush()

    def _next_frame(self) -> bytes:
        """The next whole one; empty: it has not come yet."""
        length = 9 + int.from_bytes(self._received[:3], "big")
        if len(self._received) < length:
            return b""
        frame, self._received = self._received[:length], self._received[length:]
        return frame

    def _note(self, event: Any) -> None:
        self.events.append(event)
        match event:
            case h2.events.ResponseReceived():
                self.answers[event.stream_id].headers = dict(event.headers)
            case h2.events.TrailersReceived():
                self.answers[event.stream_id].trailers = dict(event.headers)
            case h2.events.DataReceived():
                self.answers[event.stream_id].body += event.data
                self.state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamReset():
                self.answers[event.stream_id].reset = event.error_code
                self.answers[event.stream_id].ended = True
            case h2.events.StreamEnded():
                self.answers[event.stream_id].ended = True

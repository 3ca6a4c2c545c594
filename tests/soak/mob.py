"""Clients that behave as badly as TCP lets them, for as long as this process lives.

python -m tests.soak.mob ADDRESS FUNCTION ELEMENTS SEED: rows of FUNCTION have ELEMENTS x FP32. It
says `ready` once all idle connections are there, then a line of counts whenever it is sent one.
"""

from __future__ import annotations

import random
import resource
import select
import socket
import struct
import sys
from collections import Counter

from gslice.protos import message

IDLE = 1000
BUSY = 64
_PATH = "/inference.GRPCInferenceService/ModelInfer"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _WINDOW = 0, 1, 3, 4, 8
_END_STREAM, _END_HEADERS = 1, 4
_WINDOW_SIZE = 4  # SETTINGS_INITIAL_WINDOW_SIZE
_CANCEL = 8
_PART_BYTES = 16384


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def greeting(window_bytes: int = 65535) -> bytes:
    """What a client says first."""
    return _PREFACE + frame(_SETTINGS, 0, 0, struct.pack(">HI", _WINDOW_SIZE, window_bytes))


def headers(stream: int) -> bytes:
    """The first frame of a call."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": _PATH,
        ":authority": "mob",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    block = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )
    return frame(_HEADERS, _END_HEADERS, stream, block)


def data(stream: int, body: bytes, *, end: bool) -> bytes:
    """A call's DATA."""
    parts = [body[at : at + _PART_BYTES] for at in range(0, len(body), _PART_BYTES)]
    return b"".join(
        frame(_DATA, _END_STREAM if end and part is parts[-1] else 0, stream, part)
        for part in parts
    )


def request(function: str, elements: int, rows: int) -> bytes:
    """A request as its call has it."""
    kind = message("inference.ModelInferRequest")
    tensor = kind.InferInputTensor(name="x", datatype="FP32", shape=[rows, elements])
    body = kind(
        model_name=function, inputs=[tensor], raw_input_contents=[bytes(4 * elements * rows)]
    ).SerializeToString()
    return b"\0" + struct.pack(">I", len(body)) + body


class Client:
    """One connection, of which nothing is waited for.

    Args:
        address: Of the front-end.
        first: What it says first.
    """

    def __init__(self, address: tuple[str, int], first: bytes = b"") -> None:
        self.socket = socket.create_connection(address)
        self.socket.setblocking(False)
        self._next = 1
        self.say(first)

    def say(self, what: bytes) -> None:
        """Sends what the socket takes; a frame that is cut off is the front-end's problem."""
        try:
            self.socket.send(what)
        except (BlockingIOError, ConnectionError):
            return

    def stream(self) -> int:
        """A new one."""
        self._next += 2
        return self._next - 2

    def read(self) -> None:
        """Takes whatever has come."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except (BlockingIOError, ConnectionError):
            return

    def close(self, *, killed: bool) -> None:
        """Ends; killed: as a process that dies with unread data."""
        if killed:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Mob:
    """All of them.

    Args:
        address: Of the front-end.
        function: Whom they ask.
        elements: Of a row.
        chance: What is left to it.
    """

    def __init__(
        self, address: tuple[str, int], function: str, elements: int, chance: random.Random
    ) -> None:
        self._address = address
        self._chance = chance
        self._small, self._large = (request(function, elements, rows) for rows in (1, 8))
        self._busy: list[Client] = []
        self.counts: Counter[str] = Counter()
        self._idle = [Client(address, greeting()) for _ in range(IDLE)]

    def step(self) -> None:
        """One of them does something."""
        if len(self._busy) >= BUSY:
            client = self._busy.pop(self._chance.randrange(BUSY))
            client.close(killed=self._chance.random() < 0.1)
            self.counts["ended"] += 1
        act = self._chance.choice([self._storm, self._mute, self._slow_writer, self._slow_reader])
        self.counts[act.__name__.strip("_")] += 1
        self._busy.append(act())

    def _storm(self) -> Client:
        client = Client(self._address, greeting())
        for _ in range(200):
            stream = client.stream()
            body = self._chance.choice([self._small, self._large])
            part = body[: self._chance.randrange(len(body) + 1)]
            client.say(headers(stream) + data(stream, part, end=len(part) == len(body)))
            client.say(frame(_RESET, 0, stream, struct.pack(">I", _CANCEL)))
            client.read()
        return client

    def _mute(self) -> Client:
        return Client(self._address, _PREFACE[: self._chance.randrange(len(_PREFACE))])

    def _slow_writer(self) -> Client:
        client = Client(self._address, greeting())
        for _ in range(8):
            stream = client.stream()
            client.say(headers(stream) + data(stream, self._large[:30_000], end=False))
        return client

    def _slow_reader(self) -> Client:
        client = Client(self._address, greeting(self._chance.choice([0, 1000, 1 << 30])))
        client.say(frame(_WINDOW, 0, 0, struct.pack(">I", 1 << 30)))
        for _ in range(8):
            stream = client.stream()
            client.say(headers(stream) + data(stream, self._small, end=True))
        return client


def main() -> None:
    """Until it is killed."""
    address, function, elements, seed = sys.argv[1:]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * IDLE)), hard))
    host, _, port = address.rpartition(":")
    mob = Mob((host, int(port)), function, int(elements), random.Random(int(seed)))
    print("ready", flush=True)
    while True:
        mob.step()
        if select.select([sys.stdin], [], [], 0.005)[0]:
            sys.stdin.readline()
            print(dict(mob.counts), flush=True)


if __name__ == "__main__":
    main()

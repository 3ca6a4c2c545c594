"""mosec: a worker whose body is bytes, in and out."""

from __future__ import annotations

from engine import STREAM, Model
from mosec import Server, Worker


class Raw(Worker):
    """The body as it is: neither JSON nor msgpack."""

    resp_mime_type = "application/octet-stream"

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: bytes) -> bytes:
        return data


class Identity(Raw):
    def forward(self, data: bytes) -> bytes:
        return data


class Detector(Raw):
    def __init__(self) -> None:
        self._model = Model()

    def forward(self, data: bytes) -> bytes:
        output: bytes = self._model.of_bytes(data)
        return output


if __name__ == "__main__":
    server = Server()
    server.append_worker(Detector if STREAM["model"] else Identity, num=1, max_batch_size=1)
    server.run()

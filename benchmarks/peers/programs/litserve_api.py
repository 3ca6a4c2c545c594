"""LitServe: an API whose body is bytes, in and out."""

import argparse
from typing import Annotated, Any

import litserve
from engine import STREAM, Model
from fastapi import Body, Response

MEDIA_TYPE = "application/octet-stream"
RawBody = Annotated[bytes, Body(media_type=MEDIA_TYPE)]


class Identity(litserve.LitAPI):
    """The body as it is: FastAPI reads no JSON then."""

    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request: RawBody, **_: Any) -> bytes:
        return request

    def predict(self, tensor: bytes, **_: Any) -> bytes:
        return tensor

    def encode_response(self, output: bytes, **_: Any) -> Response:
        return Response(content=output, media_type=MEDIA_TYPE)


class Detector(Identity):
    def setup(self, device: str) -> None:
        self._model = Model()

    def predict(self, tensor: bytes, **_: Any) -> bytes:
        output: bytes = self._model.of_bytes(tensor)
        return output


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    api = Detector() if STREAM["model"] else Identity()
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host=arguments.host,
        port=arguments.port,
        num_api_servers=1,
        log_level="warning",  # at "info" it prints a line a request
        generate_client_file=False,
    )


if __name__ == "__main__":
    main()

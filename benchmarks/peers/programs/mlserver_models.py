"""MLServer: custom runtimes."""

from __future__ import annotations

from engine import STREAM, Model
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Identity(MLModel):
    """The input's data as it is; no codec looks at it."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        given = payload.inputs[0]
        output = ResponseOutput(
            name=STREAM["output"], shape=given.shape, datatype=given.datatype, data=given.data
        )
        return InferenceResponse(model_name=self.name, outputs=[output])


class Detector(MLModel):
    """The model, between two codecs for numpy."""

    async def load(self) -> bool:
        self._model = Model()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        array = self._model(NumpyCodec.decode_input(payload.inputs[0]))
        output = NumpyCodec.encode_output(STREAM["output"], array)
        return InferenceResponse(model_name=self.name, outputs=[output])

"""Tells what a file is: Magika's own logic, with its model served by gslice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from magika import Magika

from gslice.demo.ocr import Infer, Tensor

FILETYPE = "filetype"


@dataclass(frozen=True)
class FileType:
    """What a file is.

    Attributes:
        file: Its name.
        label: Magika's short name of the type, such as `png`.
        description: In words.
        score: Confidence, 0 to 1.
    """

    file: str
    label: str
    description: str
    score: float


class _Session:
    """Stands where Magika expects its ONNX Runtime session."""

    def __init__(self, infer: Infer) -> None:
        self._infer = infer

    def run(self, outputs: Sequence[str], inputs: dict[str, Any]) -> list[Tensor]:
        rows = {name: np.asarray(value, np.int32) for name, value in inputs.items()}
        answer = self._infer(FILETYPE, rows)
        return [answer[name] for name in outputs]


class _RemoteMagika(Magika):
    def __init__(self, infer: Infer) -> None:
        self._infer = infer
        super().__init__()

    def _init_onnx_session(self) -> _Session:
        return _Session(self._infer)


class FileTypeReader:
    """Identifies files by content.

    Args:
        infer: Runs `filetype`.
    """

    def __init__(self, infer: Infer) -> None:
        self._magika = _RemoteMagika(infer)

    def read(self, files: Sequence[Path]) -> list[FileType]:
        """Identifies files, a request each: putting batches together is the server's work.

        Returns:
            One answer a file, in their order.
        """
        return [
            FileType(
                file=Path(result.path).name,
                label=str(result.output.label),
                description=result.output.description,
                score=float(result.score),
            )
            for result in map(self._magika.identify_path, files)
        ]

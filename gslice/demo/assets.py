"""Where the demo's models and its page lie: inside installed packages, nothing is downloaded."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from gslice.core.errors import FailedPrecondition

INSTALL_HINT = "pip install 'gslice[demo]'"


@dataclass(frozen=True)
class Assets:
    """The files that the demo serves and reads.

    Attributes:
        detector: PP-OCR text detection, ONNX.
        recognizer: PP-OCR text recognition, ONNX, with its character list as metadata.
        filetype: Magika's file-type model, ONNX.
        page: A photographed page, PNG.
    """

    detector: Path
    recognizer: Path
    filetype: Path
    page: Path


def find() -> Assets:
    """Finds every file without importing the packages that carry them.

    Raises:
        FailedPrecondition: A package is missing, or lacks the file; the hint says what to install.
    """
    for module in ("cv2", "onnxruntime", "PIL", "psutil"):
        _package(module)
    return Assets(
        detector=_file("rapidocr", "models/*_det_*.onnx"),
        recognizer=_file("rapidocr", "models/*_rec_*.onnx"),
        filetype=_file("magika", "models/*/model.onnx"),
        page=_file("skimage", "data/page.png"),
    )


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise FailedPrecondition(
            f"the demo needs the Python package {name}, which is not installed", hint=INSTALL_HINT
        )
    return Path(spec.submodule_search_locations[0])


def _file(package: str, pattern: str) -> Path:
    root = _package(package)
    found = sorted(root.glob(pattern))
    if not found:
        raise FailedPrecondition(f"{root} holds no {pattern}", hint=INSTALL_HINT)
    return found[-1]

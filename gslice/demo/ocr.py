"""Reads a page: PP-OCR's own steps around two functions that run somewhere else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gslice.core.errors import InvalidArgument

Tensor = NDArray[Any]
Infer = Callable[[str, Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Runs a function: its name and inputs by name in, its outputs by name out."""

DETECTOR = "detector"
RECOGNIZER = "recognizer"

DETECTOR_SIDE = 224  # shortest side that the detector sees, pixels
UNCLIP_RATIO = 1.3  # how far a box grows around its text; the page's lines are close
LINE_HEIGHT = 48  # the recogniser's fixed input height, pixels
LINE_WIDTH_STEP = 256  # lines are padded to a multiple: few shapes, so lines batch together


@dataclass(frozen=True)
class Line:
    """One line of text on the page.

    Attributes:
        text: What it says.
        score: Mean confidence of its characters, 0 to 1.
        box: Its corners in page pixels, clockwise from the top left, shape (4, 2).
    """

    text: str
    score: float
    box: NDArray[np.float32]


class PageReader:
    """Detects the lines of a page, then recognises each.

    Args:
        infer: Runs `detector` and `recognizer`.
        recognizer: The recognition model's file; its metadata lists the characters.
    """

    def __init__(self, infer: Infer, recognizer: Path) -> None:
        # rapidocr's __init__ is lazy, but these modules bring requests and OpenCV: import late.
        from rapidocr.ch_ppocr_det.utils import DBPostProcess, DetPreProcess
        from rapidocr.ch_ppocr_rec.utils import CTCLabelDecode

        self._infer = infer
        self._to_detector = DetPreProcess(DETECTOR_SIDE, "min", mean=[0.5] * 3, std=[0.5] * 3)
        self._to_boxes = DBPostProcess(box_thresh=0.5, unclip_ratio=UNCLIP_RATIO, use_dilation=True)
        self._to_text = CTCLabelDecode(character=_characters(recognizer))

    def read(self, page: NDArray[np.uint8]) -> list[Line]:
        """Reads a page.

        Args:
            page: BGR pixels, shape (height, width, 3).

        Returns:
            Its lines, from top to bottom.
        """
        return [Line(*self._recognize(line_image(page, box)), box) for box in self._detect(page)]

    def _detect(self, page: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        from rapidocr.ch_ppocr_det import TextDetector

        tensor = self._to_detector(page)
        if tensor is None:
            raise InvalidArgument(f"a page of shape {page.shape} has no pixels to read")
        boxes, _ = self._to_boxes(_only(self._infer(DETECTOR, {"x": tensor})), page.shape[:2])
        return list(TextDetector.sorted_boxes(boxes))

    def _recognize(self, image: NDArray[np.uint8]) -> tuple[str, float]:
        lines, _ = self._to_text(_only(self._infer(RECOGNIZER, {"x": to_recognizer(image)})))
        text, score = lines[0]
        return text, score


def line_image(page: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Cuts one line out of the page and straightens it."""
    from rapidocr.utils.process_img import get_rotate_crop_image

    image: NDArray[np.uint8] = get_rotate_crop_image(page, box.copy())
    return image


def to_recognizer(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scales a line to the recogniser's height, to [-1, 1], and pads it on the right.

    Args:
        image: BGR pixels, shape (height, width, 3).

    Returns:
        Shape (1, 3, 48, a multiple of LINE_WIDTH_STEP).
    """
    height, width = image.shape[:2]
    scaled_width = max(1, math.ceil(LINE_HEIGHT * width / height))
    scaled = cv2.resize(image, (scaled_width, LINE_HEIGHT)).astype(np.float32)
    padded_width = math.ceil(scaled_width / LINE_WIDTH_STEP) * LINE_WIDTH_STEP
    tensor = np.zeros((1, 3, LINE_HEIGHT, padded_width), np.float32)
    tensor[0, :, :, :scaled_width] = scaled.transpose(2, 0, 1) / 127.5 - 1
    return tensor


def _characters(model: Path) -> list[str]:
    """The characters that a recognition model tells apart, from its own metadata."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    metadata = onnxruntime.InferenceSession(str(model), options).get_modelmeta()
    characters: str = metadata.custom_metadata_map["character"]
    return characters.splitlines()


def _only(outputs: Mapping[str, Tensor]) -> Tensor:
    (tensor,) = outputs.values()
    return tensor

"""Latencies that others measured, as figures; what is not measured is marked so.

`V100`: AlexNet, ResNet-50, VGG-19 and SSD under TensorRT on one NVIDIA V100, FP32 inputs (the
engines' own precision is not stated), batches of 1, 16 and 32 rows at 10, 50 and 100 % of the SMs.
Source: github.com/icloud-ecnu/igniter, `i-Gniter/Algorithm/config`: `gpulatency`; bytes of inputs
and outputs; `activetime_1` and `_2`, alone and beside a second copy, 16 rows at 50 % each;
`l2cache`. That repository's own form of the latency is fitted to the nine points.

`A100`: seven vision models under MPS, batches of 1 to 32 rows at 20 to 100 %. Source:
github.com/0909wlgur/Gpulet, `data/inference.csv` and, for the co-runs, `data/interference.csv`
(16 rows, and 64 of DenseNet-121, at 20 % beside 16 rows at 80 %). It states no GPU; its whole-GPU
rates are those of github.com/MunQ-Lee/ParvaGPU_SC24, taken on an A100, within 1 % (VGG-19: 1464
and 1461 rows a second). Precision: PyTorch's default.
"""

from __future__ import annotations

from typing import NamedTuple

# ---- V100 ------------------------------------------------------------------------------------

V100_ROWS = (1, 16, 32)
V100_SHARES_PERCENT = (10.0, 50.0, 100.0)
V100_BYTES_PER_US = 10_000.0
"""PCIe, as the same repository assumes; 32 rows of VGG-19 took 1.75 ms: 11 bytes a nanosecond."""


class OnV100(NamedTuple):
    """One model there.

    Attributes:
        batch_ms: By rows, then by share; without copies.
        row_bytes: In and out.
        pair_ratio: Time beside a copy of itself, each at 50 %, over the time alone.
        l2_percent: L2 utilisation then: how much it disturbs others.
    """

    batch_ms: tuple[tuple[float, ...], ...]
    row_bytes: int
    pair_ratio: float
    l2_percent: float


V100 = {
    "alexnet": OnV100(
        ((3.6229, 0.9349, 0.7070), (16.7080, 3.6223, 2.0653), (30.8827, 6.4660, 3.5966)),
        606_112,
        3.8653 / 3.6834,
        16.06,
    ),
    "resnet50": OnV100(
        ((7.6895, 2.8525, 2.3921), (91.7003, 20.0810, 11.5367), (180.4697, 38.3752, 21.3415)),
        606_112,
        21.2965 / 20.2699,
        16.87,
    ),
    "vgg19": OnV100(
        ((20.9261, 4.7655, 2.7600), (253.6834, 51.8618, 28.5882), (501.6831, 102.3293, 56.3228)),
        606_112,
        58.5846 / 52.0246,
        18.61,
    ),
    "ssd": OnV100(
        ((25.2384, 6.9181, 4.5456), (370.2594, 77.4022, 43.6156), (739.7244, 152.4294, 84.8089)),
        4_048_880,
        89.0054 / 81.3991,
        18.33,
    ),
}

# ---- A100 ------------------------------------------------------------------------------------

A100_ROWS = (1, 2, 4, 8, 16, 32)
A100_SHARES_PERCENT = (20.0, 40.0, 50.0, 60.0, 80.0, 100.0)

A100_MS: dict[str, tuple[tuple[float, ...], ...]] = {
    "vgg16": (
        (4.5352, 2.5328, 2.2588, 1.8939, 1.7049, 1.5141),
        (7.2043, 3.8160, 3.3904, 2.7645, 2.4445, 2.1015),
        (11.7856, 6.1586, 5.4528, 4.3988, 3.8843, 3.3057),
        (20.8779, 10.8779, 9.1371, 7.6794, 6.4109, 5.3637),
        (39.6238, 20.0340, 16.6150, 14.2212, 11.6726, 9.9152),
        (76.7215, 38.4774, 31.8155, 27.2520, 22.2003, 19.0475),
    ),
    "vgg19": (
        (5.4663, 3.0238, 2.7025, 2.2489, 2.0257, 1.7890),
        (8.4986, 4.4802, 4.0233, 3.2358, 2.8926, 2.4796),
        (13.8729, 7.2338, 6.4818, 5.1255, 4.5996, 3.8824),
        (24.5497, 12.8015, 10.7682, 8.9634, 7.4821, 6.2157),
        (46.6910, 23.5386, 19.5086, 16.6212, 13.6327, 11.5178),
        (90.4798, 45.1784, 37.2555, 31.8471, 25.9331, 22.1191),
    ),
    "resnet50": (
        (4.7590, 4.7416, 4.7665, 4.7610, 4.7901, 4.7624),
        (5.0713, 4.7993, 4.8200, 4.7888, 4.8025, 4.7646),
        (7.4954, 4.9004, 4.9870, 4.9344, 4.8555, 4.9369),
        (12.4533, 7.0183, 6.2739, 5.4528, 5.0423, 5.0452),
        (22.5012, 12.3400, 10.8115, 9.3079, 8.1885, 7.2425),
        (41.1983, 22.3721, 19.4278, 16.9074, 14.8662, 13.3591),
    ),
    "resnet101": (
        (8.8710, 8.9517, 9.0600, 8.7804, 8.9873, 9.1133),
        (8.9882, 8.7459, 8.8257, 8.9539, 9.0179, 8.7903),
        (12.5474, 8.9544, 8.9958, 9.0616, 9.0663, 9.0280),
        (19.6172, 11.2539, 10.0514, 9.2020, 9.1349, 9.1909),
        (34.5307, 18.9686, 16.9246, 14.3740, 12.6797, 10.9033),
        (64.2941, 34.6745, 30.1151, 26.0112, 23.0348, 19.9352),
    ),
    "densenet121": (
        (11.9587, 11.8650, 12.0787, 12.0252, 12.0447, 11.9671),
        (11.8612, 11.9121, 11.8182, 12.0125, 11.8741, 12.1612),
        (11.8928, 11.9500, 12.0272, 12.0252, 12.2998, 12.0789),
        (15.8764, 12.4239, 12.1837, 12.1884, 12.2494, 12.2328),
        (27.2929, 15.9304, 13.9799, 12.6253, 12.6828, 12.6405),
        (55.4143, 30.1836, 26.1472, 22.8136, 19.8922, 17.8746),
    ),
    "inception": (
        (8.1557, 8.1987, 8.4492, 8.5360, 8.3742, 8.3449),
        (8.5131, 8.5029, 8.5369, 8.4209, 8.3056, 8.4574),
        (8.5010, 8.5026, 8.4922, 8.3852, 8.5620, 8.5541),
        (12.4690, 8.7174, 8.7720, 8.8690, 8.6929, 8.6889),
        (20.6484, 12.0058, 10.3039, 9.1903, 9.1082, 9.1306),
        (37.1461, 20.6023, 17.4674, 15.1370, 13.3444, 11.8494),
    ),
    "mobilenet": (
        (4.6012, 4.5699, 4.5913, 4.5647, 4.6429, 4.5802),
        (4.7621, 4.6772, 4.7174, 4.6879, 4.6844, 4.6674),
        (4.8173, 4.7687, 4.7897, 4.9007, 4.7815, 4.7388),
        (6.1067, 4.9466, 5.0535, 5.0191, 4.9966, 5.0452),
        (11.7898, 6.7652, 5.8198, 5.4201, 5.4659, 5.4504),
        (23.0202, 12.8811, 10.9857, 9.8345, 8.5546, 7.9166),
    ),
}

A100_CO_RUN_PERCENT = 80.0
"""The neighbour's share in the co-runs."""

A100_CO_RUN = {
    "vgg19": {"vgg19": 1.138, "resnet50": 1.118, "densenet121": 1.064, "mobilenet": 1.064}
    | {"inception": 1.031},
    "resnet50": {"vgg19": 1.176, "resnet50": 1.204, "densenet121": 1.104, "mobilenet": 1.111}
    | {"inception": 1.079},
    "densenet121": {"vgg19": 1.172, "resnet50": 1.186, "densenet121": 1.095, "mobilenet": 1.096}
    | {"inception": 1.058},
}
"""Time beside a neighbour over the time alone, by who is slowed and by whom.

MobileNet and Inception were not measured as the slowed ones: the mean of the three is taken.
"""

A100_ALIKE = {"vgg16": "vgg19", "resnet101": "resnet50"}
"""Not measured in co-runs: taken to be like its sibling."""

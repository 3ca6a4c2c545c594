"""What green contexts cost: creation, streams, and speed inside. Needs cuda-bindings."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.gpu.step import needed

WANTED = (8, 16, 24, 32, 64, 96)


def measure() -> tuple[str, dict[str, Any]]:
    """The answer in a line, and a row for each wanted number of multiprocessors."""
    driver, torch = needed("cuda.bindings.driver"), needed("torch")
    torch.zeros(1, device="cuda")  # torch's primary context stays the current one
    gpu = _value(driver.cuDeviceGet(0))
    kind = driver.CUdevResourceType.CU_DEV_RESOURCE_TYPE_SM
    whole = _value(driver.cuDeviceGetDevResource(gpu, kind))
    rows = [_one(driver, torch, gpu, whole, wanted) for wanted in WANTED]
    made = [row for row in rows if "got" in row]
    if not made:
        return str(rows[0]["failed"]), {"rows": rows}
    create_ms = sorted(row["create_ms"] for row in made)[len(made) // 2]
    got = ", ".join(f"{row['wanted']}: {row['got']}" for row in made)
    text = f"asked and got {got} of {whole.sm.smCount} SMs; creation {create_ms:.1f} ms"
    return text, {"sms": whole.sm.smCount, "rows": rows, "plain_ms": _product_ms(torch, None)}


def _one(driver: Any, torch: Any, gpu: Any, whole: Any, wanted: int) -> dict[str, Any]:
    begun = time.perf_counter()
    try:
        split = driver.cuDevSmResourceSplitByCount(1, whole, 0, wanted)
        groups, _, rest = _value(split)
        description = _value(driver.cuDevResourceGenerateDesc([groups[0]], 1))
        flags = driver.CUgreenCtxCreate_flags.CU_GREEN_CTX_DEFAULT_STREAM
        context = _value(driver.cuGreenCtxCreate(description, gpu, flags))
        created = time.perf_counter()
        non_blocking = driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        stream = _value(driver.cuGreenCtxStreamCreate(context, non_blocking, 0))
    except RuntimeError as error:
        return {"wanted": wanted, "failed": str(error)}
    return {
        "wanted": wanted,
        "got": groups[0].sm.smCount,
        "rest": rest.sm.smCount,
        "create_ms": round((created - begun) * 1e3, 3),
        "stream_ms": round((time.perf_counter() - created) * 1e3, 3),
        "product_ms": _product_ms(torch, torch.cuda.ExternalStream(int(stream))),
    }


def _product_ms(torch: Any, stream: Any) -> float:
    """Median time of a 4096 x 4096 FP16 product on a stream."""
    stream = stream or torch.cuda.current_stream()
    with torch.cuda.stream(stream):
        a = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)
        times = []
        for _ in range(20):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record(stream)
            a @ a
            end.record(stream)
            end.synchronize()
            times.append(begin.elapsed_time(end))
    return round(float(sorted(times)[len(times) // 2]), 4)


def _value(result: Any) -> Any:
    """What a call of cuda.bindings gave, without its status."""
    status, *values = result
    if int(status) != 0:
        raise RuntimeError(f"{status}")
    return values[0] if len(values) == 1 else tuple(values)

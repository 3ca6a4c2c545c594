"""What is installed: versions, and which of ONNX Runtime's two packages."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

REINSTALL = "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install "


def installed(package: str) -> str:
    """A package's version; empty if it is not installed."""
    import importlib.metadata  # some megabytes, which a worker takes only to explain a failure

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def cuda_provider() -> Path | None:
    """The library of ONNX Runtime's CUDA provider, found without an import; None: it has none."""
    found = importlib.util.find_spec("onnxruntime")
    if found is None or found.origin is None:
        return None
    library = Path(found.origin).parent / "capi" / "libonnxruntime_providers_cuda.so"
    return library if library.is_file() else None


@dataclass(frozen=True)
class OnnxRuntimePackages:
    """`onnxruntime` computes on the CPU only, `onnxruntime-gpu` on both; their files share names.

    Whichever was installed last has overwritten the other, and uninstalling one breaks both.

    Attributes:
        cpu: Version of `onnxruntime`; empty if it is not installed.
        gpu: Likewise of `onnxruntime-gpu`.
    """

    cpu: str
    gpu: str

    @classmethod
    def find(cls) -> OnnxRuntimePackages:
        """As they are installed here."""
        return cls(installed("onnxruntime"), installed("onnxruntime-gpu"))

    def __str__(self) -> str:
        names = {"onnxruntime": self.cpu, "onnxruntime-gpu": self.gpu}
        return ", ".join(f"{name} {version}" for name, version in names.items() if version)

    @property
    def both(self) -> bool:
        """Whether they have overwritten each other."""
        return bool(self.cpu and self.gpu)

    def problem(self, on_gpu: bool) -> tuple[str, str]:
        """What is wrong with them, and what to do; empty texts if nothing is.

        Args:
            on_gpu: Whether models are to run on a GPU.
        """
        extra = "'gslice[cuda]'" if on_gpu else "'gslice[cpu]', or 'gslice[cuda]' for a GPU"
        if self.both:
            what = f"onnxruntime {self.cpu} and onnxruntime-gpu {self.gpu} overwrite each other"
            return what, REINSTALL + extra
        if on_gpu and self.cpu:
            what = f"onnxruntime {self.cpu} computes on the CPU only"
            return what, f"pip uninstall -y onnxruntime, then pip install {extra}"
        if on_gpu and not self.gpu:
            return "onnxruntime-gpu is not installed", f"pip install {extra}"
        return "", ""

"""What a result says of the machine that it was measured on: its processor, a process's memory."""

import os
import platform
import resource
import sys
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from not_core.learning.device import precision


def processor() -> str:
    """What the processor is and whether it multiplies bfloat16 natively."""
    import torch

    able = torch.cpu.get_capabilities()
    kinds = [kind for kind in ("avx512_bf16", "amx_bf16") if able.get(kind)]
    return " ".join([platform.machine(), str(able.get("cpu_name", "")).strip(), *kinds])


def computes_in_bfloat16() -> bool:
    """Whether what chooses its type computes in bfloat16 on this processor."""
    import torch

    return precision("auto", torch.device("cpu")) == "bfloat16"


def system() -> dict[str, Any]:
    """The system, its processor, and the libraries that sealing is measured by."""
    told: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cores allowed": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "python": platform.python_version(),
    }
    cpus = Path("/proc/cpuinfo")
    if cpus.is_file():
        lines = [line.split(":", 1) for line in cpus.read_text().splitlines() if ":" in line]
        cpu = {key.strip(): value.strip() for key, value in lines}
        told["processor"] = cpu.get("model name", "")
        flags = set(cpu.get("flags", "").split()) | set(cpu.get("Features", "").split())
        told["has"] = sorted(flags & {"aes", "vaes", "pclmulqdq", "vpclmulqdq", "sha_ni", "sha2"})
    from cryptography.hazmat.backends.openssl import backend

    told["openssl"] = backend.openssl_version_text()
    for name in ("cryptography", "pyrage"):
        if find_spec(name):
            told[name] = metadata.version(name)
    return told


class Meter:
    """What this process takes from here on."""

    def __init__(self) -> None:
        self._began, self._cpu = time.monotonic(), time.process_time()

    def read(self) -> dict[str, float]:
        """Seconds, of them the processor's, and the most memory of the process so far."""
        return {
            "seconds": round(time.monotonic() - self._began, 1),
            "cpu_seconds": round(time.process_time() - self._cpu, 1),
            "peak_mb": round(peak_bytes() / 1e6),
        }


def peak_bytes(process: int | str = "self") -> int:
    """Most memory that a process has had resident since its program was started.

    ``ru_maxrss``, taken where the system tells no better, outlives ``exec`` on Linux: a child
    would be told the peak of the parent that started it.

    Raises:
        OSError: The process is gone, or the system does not tell of others.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
        return int(dict(line.split(":", 1) for line in lines)["VmHWM"].removesuffix("kB")) * 1024
    except (OSError, KeyError) as error:
        if process != "self":
            raise OSError(f"no memory is known of process {process}") from error
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

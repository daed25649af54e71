"""Peak memory of this process, as Linux counts it."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
MIB = 2**20


def _bytes_of(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")


class PeakGrowth:
    """How far resident memory rises above where it stood, at its highest moment.

    The kernel keeps the highest value (VmHWM) itself, so no allocation is too short to be seen, and all
    libraries count, whatever allocator they use. What the heap had kept of earlier work is given back
    first: memory that is taken again would otherwise not show.
    """

    def __init__(self) -> None:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        try:
            _CLEAR.write_text("5")  # sets the highest value back to the present one
        except OSError:
            self._begin: int | None = None
        else:
            self._begin = _bytes_of("VmRSS")

    def mib(self) -> float | None:
        """Growth so far; None where the kernel does not let it be measured."""
        if self._begin is None:
            return None
        return max(_bytes_of("VmHWM") - self._begin, 0) / MIB

"""Argument checks that wrappers and fakes share: each error names op, argument, expected and actual.

Only what needs no look at tensor values is checked here, so the checks can be traced and never cost a
device synchronisation; the kernels check values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .views import Views

VIEW_FIELDS: tuple[tuple[str, torch.dtype, int], ...] = (
    ("video", torch.int64, 1),
    ("start", torch.float32, 1),
    ("stride", torch.float32, 1),
    ("box", torch.float32, 2),
    ("flip", torch.bool, 1),
    ("rotation", torch.uint8, 1),
)


def tensor(
    op: str,
    argument: str,
    value: object,
    *,
    dtypes: Iterable[torch.dtype],
    shape: Sequence[int | None] | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Return ``value`` if it is a tensor of one of ``dtypes``, of ``shape`` (None: any) on ``device``.

    Raises:
        TypeError: not a tensor, or another dtype.
        ValueError: another shape or device.

    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {argument}: expected a tensor, got {type(value).__name__}")
    allowed = tuple(dtypes)
    if value.dtype not in allowed:
        names = " or ".join(str(dtype) for dtype in allowed)
        raise TypeError(f"{op}: {argument}: expected {names}, got {value.dtype}")
    if shape is not None:
        matches = value.dim() == len(shape)
        for actual, expected in zip(value.shape, shape, strict=False):
            matches = matches and (expected is None or actual == expected)
        if not matches:
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise ValueError(
                f"{op}: {argument}: expected shape ({wanted}), got {tuple(value.shape)}"
            )
    if device is not None and value.device != device:
        raise ValueError(f"{op}: {argument}: expected a tensor on {device}, got {value.device}")
    return value


def no_gradient(op: str, argument: str, value: Tensor) -> None:
    """Refuse a tensor that requires a gradient.

    Raises:
        ValueError: ``value`` requires a gradient.

    """
    if value.requires_grad:
        raise ValueError(
            f"{op}: {argument}: expected a tensor without gradient, got one with "
            "requires_grad=True: this op has none (detach it)"
        )


def views(
    op: str,
    argument: str,
    value: object,
    *,
    size: int | None = None,
    device: torch.device | None = None,
) -> list[Tensor]:
    """Return the fields of a well-formed `Views` in their order, as the ops take them.

    Raises:
        TypeError: not a Views, or a field of another dtype.
        ValueError: a field of another shape or device, or not ``size`` views.

    """
    if not isinstance(value, Views):
        raise TypeError(f"{op}: {argument}: expected stor_ops.Views, got {type(value).__name__}")
    video = tensor(op, f"{argument}.video", value.video, dtypes=[torch.int64], shape=(None,))
    rows = video.shape[0]
    device = video.device if device is None else device
    fields = []
    for name, dtype, dim in VIEW_FIELDS:
        shape = (rows,) if dim == 1 else (rows, 4)
        field = tensor(
            op,
            f"{argument}.{name}",
            getattr(value, name),
            dtypes=[dtype],
            shape=shape,
            device=device,
        )
        no_gradient(op, f"{argument}.{name}", field)
        fields.append(field)
    if size is not None and rows != size:
        raise ValueError(f"{op}: {argument}: expected {size} views, got {rows}")
    return fields


def integer(op: str, argument: str, value: object, low: int, high: int | None = None) -> int:
    """Return ``value`` if it is an integer in [low, high].

    Raises:
        TypeError: not an integer.
        ValueError: out of range.

    """
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{op}: {argument}: expected an integer, got {type(value).__name__}")
    if value < low or (high is not None and value > high):
        bound = f"at least {low}" if high is None else f"{low} to {high}"
        raise ValueError(f"{op}: {argument}: expected {bound}, got {value}")
    return value  # type: ignore[return-value]  # a SymInt stands for an int under torch.compile


def number(op: str, argument: str, value: object, low: float, high: float) -> float:
    """Return ``value`` as a float if it is a finite number in [low, high].

    Raises:
        TypeError: not a number.
        ValueError: not finite or out of range.

    """
    if isinstance(value, bool) or not isinstance(value, (int, float, torch.SymFloat)):
        raise TypeError(f"{op}: {argument}: expected a number, got {type(value).__name__}")
    # Not math.isfinite: torch.compile cannot trace it.
    if not (low <= value <= high and -math.inf < value < math.inf):
        raise ValueError(
            f"{op}: {argument}: expected a finite number in [{low}, {high}], got {value}"
        )
    return float(value)


def numbers(
    op: str,
    argument: str,
    values: object,
    *,
    count: int | None = None,
    low: float = -math.inf,
    high: float = math.inf,
) -> list[float]:
    """Return ``values`` as floats if it is a sequence of ``count`` (None: at least 1) finite numbers.

    Raises:
        TypeError: not a sequence of numbers.
        ValueError: another count, not finite or out of range.

    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise TypeError(
            f"{op}: {argument}: expected a sequence of numbers, got {type(values).__name__}"
        )
    if len(values) == 0 or (count is not None and len(values) != count):
        wanted = "at least 1" if count is None else str(count)
        raise ValueError(f"{op}: {argument}: expected {wanted} number(s), got {len(values)}")
    return [
        number(op, f"{argument}[{index}]", value, low, high) for index, value in enumerate(values)
    ]

"""`MultiPositiveInfoNCE`: the contrastive loss as a module, with a temperature that may be learned."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from . import _checks
from .info_nce import multi_positive_info_nce

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_LOSS = "MultiPositiveInfoNCE"


class MultiPositiveInfoNCE(nn.Module):
    """`stor_ops.multi_positive_info_nce` with its choices made once, and a temperature that may learn.

    A learned temperature is the parameter ``log_temperature``, as in CLIP (arXiv 2103.00020, section
    2.3): a step then changes it by a factor. It is kept inside of ``temperature_range`` by projection:
    `clamp_temperature`, which each forward calls, writes the parameter back to the nearest bound, and
    the loss is computed from the parameter itself. So the gradient is never cut off, and a temperature
    that stands at a bound leaves it with the first step that points inward; a clamp inside of the graph
    would hold it there for ever. It is a parameter like any other: hand it to the optimiser (as a rule
    without weight decay, which pulls towards 1), and under DDP wrap this module as well.

    Args:
        temperature: above 0; where it is learned, the first value, inside of ``temperature_range``.
        learnable: whether the temperature is a parameter.
        temperature_range: least and greatest temperature, if it is learned.
        form: "out" (SupCon) or "in" (MIL-NCE): where the sum over positives stands.
        normalize: divide queries and keys by their Euclidean norm. Unlike in the function this is the
            default: a bound on the temperature means little where features may grow.
        reduction: "mean" over the rows with positives, "sum", or "none" for a loss per row.
        group: process group over which keys and key ids are sharded.

    Shape:
        query (N, D); key (M, D) or None; query_id (N,), key_id (M,); positive_index and positive_weight
        (N, P). Output: scalar, or (N,) for "none".

    Raises:
        TypeError: an argument has another type.
        ValueError: an argument is out of range.

    Source: SupCon (arXiv 2004.11362), MIL-NCE (arXiv 1912.06430).

    """

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        learnable: bool = False,
        temperature_range: tuple[float, float] = (0.01, 1.0),
        form: Literal["out", "in"] = "out",
        normalize: bool = True,
        reduction: Literal["mean", "sum", "none"] = "mean",
        group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        for name, flag in (("learnable", learnable), ("normalize", normalize)):
            if not isinstance(flag, bool):
                raise TypeError(f"{_LOSS}: {name}: expected a bool, got {type(flag).__name__}")
        low, high = _checks.numbers(
            _LOSS, "temperature_range", temperature_range, count=2, low=1e-8, high=1e8
        )
        if low > high:
            raise ValueError(
                f"{_LOSS}: temperature_range: expected (low, high) in order, got {(low, high)}"
            )
        bounds = (low, high) if learnable else (1e-8, 1e8)
        first = _checks.number(_LOSS, "temperature", temperature, *bounds)
        _check_choice("form", form, ("out", "in"))
        _check_choice("reduction", reduction, ("mean", "sum", "none"))

        self.learnable = learnable
        self.temperature_range = (low, high)
        self.form: Literal["out", "in"] = form
        self.normalize = normalize
        self.reduction: Literal["mean", "sum", "none"] = reduction
        self.group = group
        self._first = first
        self._log_range = (math.log(low), math.log(high))
        self.log_temperature: nn.Parameter | None
        if learnable:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(first)))
        else:
            self.register_parameter("log_temperature", None)

    @property
    def temperature(self) -> float | Tensor:
        """The temperature of the next forward: a number or, if it is learned, a 0-d tensor."""
        if self.log_temperature is None:
            return self._first
        return _exp(self.log_temperature.detach().clamp(*self._log_range))

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Write a learned temperature that a step took out of its range back to the nearest bound.

        Each forward does this first; call it after a step only where the parameter is read elsewhere.
        """
        if self.log_temperature is not None:
            self.log_temperature.clamp_(*self._log_range)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        *,
        query_id: Tensor | None = None,
        key_id: Tensor | None = None,
        positive_index: Tensor | None = None,
        positive_weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss; arguments and errors are those of `stor_ops.multi_positive_info_nce`.

        Args:
            query: floating point (N, D).
            key: floating point (M, D); None contrasts the queries with each other.
            query_id: int64 (N,), in place of ``positive_index``.
            key_id: int64 (M,), given with ``key`` and ``query_id``.
            positive_index: int64 (N, P), rows of ``key`` padded with -1.
            positive_weight: float32 (N, P), with ``positive_index``.

        Returns:
            float32 (float64 for float64) scalar, or (N,) for "none".

        Raises:
            TypeError: an argument has another type or dtype.
            ValueError: an argument has another shape or device, or does not go with another.

        """
        temperature: float | Tensor = self._first
        if self.log_temperature is not None:
            self.clamp_temperature()
            temperature = _exp(self.log_temperature)
        return multi_positive_info_nce(
            query,
            key,
            query_id=query_id,
            key_id=key_id,
            positive_index=positive_index,
            positive_weight=positive_weight,
            temperature=temperature,
            form=self.form,
            normalize=self.normalize,
            reduction=self.reduction,
            group=self.group,
        )

    def extra_repr(self) -> str:
        """Describe the arguments; reading the temperature of now would wait for its device."""
        learned = f", learnable=True, temperature_range={self.temperature_range}"
        return (
            f"temperature={self._first:g}{learned if self.learnable else ''}, "
            f"form={self.form!r}, normalize={self.normalize}, reduction={self.reduction!r}"
            + (", group=..." if self.group is not None else "")
        )


def _exp(log_temperature: Tensor) -> Tensor:
    """Exponentiate in float32 at least, whatever the module was cast to."""
    double = log_temperature.dtype == torch.float64
    return (log_temperature if double else log_temperature.float()).exp()


def _check_choice(argument: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        wanted = " or ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"{_LOSS}: {argument}: expected {wanted}, got {value!r}")

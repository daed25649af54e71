"""`multi_positive_info_nce`: a contrastive loss with any number of positives in linear memory."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _checks, _info_nce_chunked, _info_nce_ring
from ._info_nce_arguments import Arguments, accumulator
from ._load import LOAD_ERROR, register_fake, require
from ._triton import info_nce as _info_nce_triton

if TYPE_CHECKING:
    from typing import Unpack

    from torch.distributed import ProcessGroup

_OP = "multi_positive_info_nce"
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def multi_positive_info_nce(
    query: Tensor,
    key: Tensor | None = None,
    *,
    query_id: Tensor | None = None,
    key_id: Tensor | None = None,
    positive_index: Tensor | None = None,
    positive_weight: Tensor | None = None,
    temperature: float | Tensor = 0.1,
    form: Literal["out", "in"] = "out",
    normalize: bool = False,
    reduction: Literal["mean", "sum", "none"] = "mean",
    group: ProcessGroup | None = None,
) -> Tensor:
    """Contrast each query with every key; any number of keys may be its positives.

    With s_j = query . key_j / temperature, lse = logsumexp_j(s_j) over all keys and weights w_p of the
    positives p, the loss of a row is

    - form "out": sum_p w_p (lse - s_p) / sum_p w_p, SupCon's L_out (arXiv 2004.11362, equation 2);
    - form "in": lse - logsumexp_p(s_p + log w_p), MIL-NCE (arXiv 1912.06430, equation 1).

    Rows without a positive count neither in the loss nor in the mean; if there is no other row the loss
    is 0. Sums are in float32 (float64 for float64). Memory is O((N + M) D), forward and backward.

    Args:
        query: floating point (N, D).
        key: floating point (M, D); None contrasts the queries with each other, each without itself.
        query_id: int64 (N,); keys of an equal id are positives of weight 1, a negative id matches nothing.
        key_id: int64 (M,), given with ``key``.
        positive_index: int64 (N, P), rows of ``key`` padded with -1, in place of the ids; a query's own
            row is ignored where ``key`` is None.
        positive_weight: float32 (N, P), finite and not negative; 0 is no positive. 1 by default.
        temperature: above 0; a 0-d tensor may require a gradient.
        form: where the sum over positives stands, outside or inside of the logarithm.
        normalize: divide queries and keys by their Euclidean norm first.
        reduction: "mean" over the rows with positives, "sum", or "none" for the rows (N,), 0 where there
            is no positive.
        group: process group over which keys and key ids are sharded; ``positive_index`` then counts
            rows of all shards in rank order. Loss and, under DDP's averaging of gradients, gradients
            equal those of one process on the concatenated batch (for "none": its local rows, and
            gradients as of the mean over ranks of what is made of them).

    Returns:
        float32 (float64 for float64) scalar, or (N,) for "none".

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an argument has another shape or device, is out of range or does not go with another;
            on the CPU also a positive_index or positive_weight out of range, named by its row.

    """
    _check_arguments(query, key, query_id, key_id, positive_index, positive_weight)
    _check_choices(temperature, form, reduction)
    require(_OP)

    if normalize:
        query = F.normalize(_accumulable(query), dim=-1)
        key = None if key is None else F.normalize(_accumulable(key), dim=-1)
    if not isinstance(temperature, Tensor):
        dtype = accumulator(query, key)
        temperature = torch.full((), temperature, dtype=dtype, device=query.device)

    lists = (query_id, key_id, positive_index, positive_weight)
    arguments = Arguments(query, key, temperature, *lists, inside=form == "in")
    if group is None:
        statistics = torch.ops.stor_ops.info_nce(*arguments)
    else:
        statistics = _info_nce_ring.info_nce(arguments, group)
    lse, positive, weight = statistics
    rows, has_positive = _row_losses(lse, positive, weight, arguments.inside)
    if reduction == "none":
        return rows
    total, count = rows.sum(), has_positive.sum()
    if group is not None:
        return _info_nce_ring.reduce_loss(total, count, reduction, group)
    return total if reduction == "sum" else total / count.clamp(min=1)


def _row_losses(
    lse: Tensor, positive: Tensor, weight: Tensor, inside: bool
) -> tuple[Tensor, Tensor]:
    """Loss of each row, 0 where there is no positive, and where there is one."""
    present = weight > 0
    if not inside:
        positive = positive / weight.masked_fill(~present, 1.0)
    return (lse - positive).masked_fill(~present, 0.0), present


def _accumulable(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _check_arguments(
    query: Tensor,
    key: Tensor | None,
    query_id: Tensor | None,
    key_id: Tensor | None,
    positive_index: Tensor | None,
    positive_weight: Tensor | None,
) -> None:
    _checks.tensor(_OP, "query", query, dtypes=_DTYPES, shape=(None, None))
    rows, device = query.shape[0], query.device
    if key is not None:
        _checks.tensor(_OP, "key", key, dtypes=_DTYPES, shape=(None, query.shape[1]), device=device)
    if (query_id is None) == (positive_index is None):
        given = "neither" if query_id is None else "both"
        raise ValueError(
            f"{_OP}: query_id: expected either query_id or positive_index, got {given}"
        )
    if query_id is not None:
        _checks.tensor(
            _OP, "query_id", query_id, dtypes=[torch.int64], shape=(rows,), device=device
        )
    if (key_id is not None) != (query_id is not None and key is not None):
        raise ValueError(
            f"{_OP}: key_id: expected exactly with query_id and key, got "
            f"{'one' if key_id is not None else 'none'}"
        )
    if key_id is not None and key is not None:
        _checks.tensor(
            _OP, "key_id", key_id, dtypes=[torch.int64], shape=(key.shape[0],), device=device
        )
    if positive_index is not None:
        _checks.tensor(
            _OP,
            "positive_index",
            positive_index,
            dtypes=[torch.int64],
            shape=(rows, None),
            device=device,
        )
    if positive_weight is not None:
        if positive_index is None:
            raise ValueError(
                f"{_OP}: positive_weight: expected only with positive_index, got no index"
            )
        _checks.tensor(
            _OP,
            "positive_weight",
            positive_weight,
            dtypes=[torch.float32],
            shape=positive_index.shape,
            device=device,
        )
        _checks.no_gradient(_OP, "positive_weight", positive_weight)


def _check_choices(temperature: float | Tensor, form: str, reduction: str) -> None:
    if isinstance(temperature, Tensor):
        _checks.tensor(_OP, "temperature", temperature, dtypes=_DTYPES, shape=())
    else:
        _checks.number(_OP, "temperature", temperature, 1e-8, 1e8)
    if form not in ("out", "in"):
        raise ValueError(f'{_OP}: form: expected "out" or "in", got {form!r}')
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'{_OP}: reduction: expected "mean", "sum" or "none", got {reduction!r}')


def _fake(query: Tensor, key: Tensor | None, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    rows, dtype = query.shape[0], accumulator(query, key)
    lse, positive, weight = (query.new_empty(rows, dtype=dtype) for _ in range(3))
    return lse, positive, weight


def _backward_fake(
    grad_lse: Tensor,
    grad_positive: Tensor,
    lse: Tensor,
    positive: Tensor,
    *rest: Unpack[tuple[Unpack[Arguments], bool]],  # with need_key
) -> tuple[Tensor, Tensor, Tensor]:
    # Dense gradients: an input may be a broadcast view, what is returned is not.
    given, need_key = Arguments(*rest[:-1]), rest[-1]
    shape = given.keys.shape if need_key and given.key is not None else (0,)
    return (
        given.query.new_empty(given.query.shape),
        given.keys.new_empty(shape),
        given.temperature.new_empty(given.temperature.shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.inside = inputs
    lse, positive, weight = output
    ctx.save_for_backward(lse, positive, *tensors)
    ctx.mark_non_differentiable(weight)


def _autograd(
    ctx: Any, grad_lse: Tensor, grad_positive: Tensor, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    need_key = ctx.needs_input_grad[1]
    grad_query, grad_key, grad_temperature = torch.ops.stor_ops.info_nce_backward(
        grad_lse, grad_positive, *ctx.saved_tensors, ctx.inside, need_key
    )
    others = (None,) * 5
    return grad_query, grad_key if need_key else None, grad_temperature, *others


def _refuse_double_backward(ctx: Any, *gradients: Tensor) -> None:
    raise NotImplementedError(f"{_OP}: gradients of gradients are not available")


if LOAD_ERROR is None:
    register_fake("info_nce")(_fake)
    register_fake("info_nce_backward")(_backward_fake)
    torch.library.register_autograd("stor_ops::info_nce", _autograd, setup_context=_setup_context)
    torch.library.register_autograd("stor_ops::info_nce_backward", _refuse_double_backward)
    torch.library.register_kernel("stor_ops::info_nce", None, _info_nce_chunked.forward)
    torch.library.register_kernel("stor_ops::info_nce_backward", None, _info_nce_chunked.backward)
    if find_spec("triton") is not None:
        torch.library.register_kernel("stor_ops::info_nce", "cuda", _info_nce_triton.forward)
        torch.library.register_kernel(
            "stor_ops::info_nce_backward", "cuda", _info_nce_triton.backward
        )

"""InfoNCE on the CPU: forward and backward of the loss, against all that holds the N x N matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import stor_ops
from stor_ops import _info_nce_chunked, reference

from .info_nce_oracle import loss_and_some_gradient
from .matmul_floor import matmul_floor
from .suite import Case, Contender, Lookup, Outputs, Suite, Target, Work, load

TEMPERATURE = 0.1
REFERENCE_ROWS = 4096  # beyond this its float64 matrices are too large
CHECKED_ROWS = 512  # beyond that, so many rows of the gradient are checked
Loss = Callable[[Tensor, Tensor], Tensor]


class Features(NamedTuple):
    """N L2-normalised rows; rows i and i + N / 2 are a pair."""

    features: Tensor
    ids: Tensor


def inputs(case: Case) -> Features:
    """Pairs of noisy copies of random directions."""
    rows, dim = case.parameters["N"], case.parameters["D"]
    generator = torch.Generator().manual_seed(20)
    one = torch.randn(rows // 2, dim, generator=generator)
    other = one + 0.5 * torch.randn(rows // 2, dim, generator=generator)
    features = F.normalize(torch.cat([one, other]), dim=1)
    return Features(features, torch.arange(rows // 2).repeat(2))


def loss_and_gradient(loss_of: Loss, data: Features) -> Work:
    """Forward and backward as one piece of work."""
    features = data.features.detach().requires_grad_()

    def work() -> Outputs:
        loss = loss_of(features, data.ids)
        (gradient,) = torch.autograd.grad(loss, features)
        return loss.detach(), gradient

    return work


def one_way(loss_of: Callable[[], Loss]) -> Callable[[Case, Features], dict[str, Work]]:
    """Build a contender of a loss; ``loss_of`` imports what it needs."""
    return lambda case, data: {"": loss_and_gradient(loss_of(), data)}


def ours(features: Tensor, ids: Tensor) -> Tensor:
    """The op as anyone would call it."""
    return stor_ops.multi_positive_info_nce(features, query_id=ids, temperature=TEMPERATURE)


def chunked(case: Case, data: Features) -> dict[str, Work]:
    """Our torch version for devices without a kernel: blocks of rows, nothing kept between passes."""
    features, temperature = data.features, torch.tensor(TEMPERATURE)

    def work() -> Outputs:
        options = (temperature, data.ids, None, None, None, False)
        lse, positive, weight = _info_nce_chunked.forward(features, None, *options)
        mean = torch.full_like(lse, 1 / len(lse))
        gradient, _, _ = _info_nce_chunked.backward(
            mean, -mean / weight, lse, positive, features, None, *options, False
        )
        return (lse - positive / weight).mean(), gradient

    return {"": work}


def plain(features: Tensor, ids: Tensor) -> Tensor:
    """Any positives; in-place steps where autograd allows them, so that few N x N matrices are made."""
    logits = (features / TEMPERATURE) @ features.t()
    logits.fill_diagonal_(-torch.inf)
    positive = (ids[:, None] == ids).fill_diagonal_(False)
    per_row = logits.where(positive, 0.0).sum(1) / positive.sum(1)
    return (logits.logsumexp(1) - per_row).mean()


def plain_for_compile(features: Tensor, ids: Tensor) -> Tensor:
    """The same without in-place steps, so that the masks fuse into the reductions."""
    row = torch.arange(features.shape[0])
    own = row[:, None] == row
    logits = ((features / TEMPERATURE) @ features.t()).masked_fill(own, -torch.inf)
    positive = (ids[:, None] == ids) & ~own
    per_row = logits.where(positive, 0.0).sum(1) / positive.sum(1)
    return (logits.logsumexp(1) - per_row).mean()


def pairs_only(features: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy with the partner's index: less work, but exactly one positive, known by its place."""
    logits = (features / TEMPERATURE) @ features.t()
    logits.fill_diagonal_(-torch.inf)
    rows = features.shape[0]
    partner = torch.arange(rows).roll(rows // 2)
    return F.cross_entropy(logits, partner)


def compiled(loss_of: Loss) -> Callable[[], Loss]:
    """One graph for each shape."""
    return lambda: torch.compile(loss_of, fullgraph=True, dynamic=False)


def metric_learning() -> Loss:
    """pytorch-metric-learning's SupConLoss, told that the features are normalised."""
    dot = load("pytorch_metric_learning.distances").DotProductSimilarity(normalize_embeddings=False)
    loss: Loss = load("pytorch_metric_learning.losses").SupConLoss(TEMPERATURE, distance=dot)
    return loss


def lightly() -> Loss:
    """lightly's NTXentLoss, which takes the two halves and knows pairs only."""
    module = load("lightly.loss").NTXentLoss(temperature=TEMPERATURE)

    def loss(features: Tensor, ids: Tensor) -> Tensor:
        result: Tensor = module(*features.chunk(2))
        return result

    return loss


def checked_rows(case: Case) -> Tensor:
    """Rows whose gradient is checked: all, or of a large N some, evenly spread."""
    rows = case.parameters["N"]
    return torch.arange(0, rows, 1 if rows <= REFERENCE_ROWS else rows // CHECKED_ROWS)


def oracle(case: Case, data: Features) -> Outputs:
    """Loss and gradient of the checked rows in float64; of the reference while its matrices fit."""
    exact = Features(data.features.double(), data.ids)
    if len(data.ids) > REFERENCE_ROWS:
        return loss_and_some_gradient(exact.features, TEMPERATURE, checked_rows(case))

    def loss(features: Tensor, ids: Tensor) -> Tensor:
        return reference.multi_positive_info_nce(features, query_id=ids, temperature=TEMPERATURE)

    return loss_and_gradient(loss, exact)()


def differences(case: Case, outputs: Outputs, expected: Outputs) -> dict[str, float]:
    """Relative errors; of the gradient whole, and across the features.

    A loss that normalises its input has no gradient along it.
    """
    rows = checked_rows(case)
    loss, gradient = outputs[0].double(), outputs[1][rows].double()
    expected_loss, expected_gradient = expected
    features = inputs(case).features[rows].double()
    norm = expected_gradient.norm()
    error = gradient - expected_gradient
    across = error - (error * features).sum(1, keepdim=True) * features
    return {
        "loss": ((loss - expected_loss).abs() / expected_loss.abs()).item(),
        "gradient": (error.norm() / norm).item(),
        "gradient_across": (across.norm() / norm).item(),
    }


def matrices(count: float) -> Callable[[Case], float]:
    """Memory of so many float32 N x N matrices, as measured at N = 4096, rounded up."""
    return lambda case: count * 4 * case.parameters["N"] ** 2


WHOLE = {"loss": 1e-5, "gradient": 1e-4}
NORMALISES = {"loss": 1e-5, "gradient_across": 1e-4}
PLAIN = ("torch", "torch, pairs only")
COMPILED = ("torch.compile", "torch.compile, pairs only")
LIBRARIES = ("pytorch-metric-learning", "lightly")
OURS = ("stor_ops", "stor_ops chunked torch")
FLOOR = "matmul floor"
ALL = (*OURS, *PLAIN, *COMPILED, *LIBRARIES, FLOOR)

CONTENDERS = (
    Contender("stor_ops", one_way(lambda: ours), WHOLE),
    Contender("stor_ops chunked torch", chunked, WHOLE, "same job; called without autograd"),
    Contender("torch", one_way(lambda: plain), WHOLE, memory=matrices(5)),
    Contender(
        "torch, pairs only",
        one_way(lambda: pairs_only),
        WHOLE,
        "one positive by its place, no ids",
        memory=matrices(4),
    ),
    Contender(
        "torch.compile",
        one_way(compiled(plain_for_compile)),
        WHOLE,
        memory=matrices(2),
        compiles=True,
    ),
    Contender(
        "torch.compile, pairs only",
        one_way(compiled(pairs_only)),
        WHOLE,
        "one positive by its place, no ids",
        memory=matrices(2),
        compiles=True,
    ),
    Contender(
        "pytorch-metric-learning",
        one_way(metric_learning),
        WHOLE,
        "SupConLoss; lists all negative pairs by index",
        ("pytorch_metric_learning",),
        memory=matrices(14),
    ),
    Contender(
        "lightly",
        one_way(lightly),
        NORMALISES,
        "NTXentLoss: normalises again, pairs only",
        ("lightly",),
        memory=matrices(6),
    ),
    Contender(
        FLOOR, matmul_floor, None, "no loss: 4 N^2 D operations, which no exact method avoids"
    ),
)


def cases(quick: bool) -> list[Case]:
    """Return a square of N and D, and one N that no matrix would fit."""
    if quick:
        return [_case(256, 32, tuple(name for name in ALL if name not in COMPILED))]
    grid = [_case(rows, dim, ALL) for rows in (1024, 4096, 8192, 16384) for dim in (128, 512)]
    pairs_list = "would need 14 GiB of memory and most of a minute a call"
    grid[-2] = replace(grid[-2], left_out={LIBRARIES[0]: pairs_list})
    essential = ("stor_ops", PLAIN[0], COMPILED[0], FLOOR)
    others = [name for name in ALL if name not in essential]
    grid[-1] = replace(grid[-1], left_out=dict.fromkeys(others, "for time: see D = 128"))
    return [*grid, _case(65536, 128, ("stor_ops",))]


def _case(rows: int, dim: int, contenders: Sequence[str]) -> Case:
    return Case(f"N={rows} D={dim}", {"N": rows, "D": dim}, tuple(contenders))


def tiny(case: Case) -> Case:
    """Few rows of the same length."""
    return _case(64, case.parameters["D"], case.contenders)


def work(case: Case, contender: str) -> dict[str, float]:
    """Of the floor's operations, as if everyone did no more."""
    return {"flop": 4.0 * case.parameters["N"] ** 2 * case.parameters["D"]}


def targets(results: Lookup) -> list[Target]:
    """What the op is built for, against the same job and against the easier one of pairs only."""
    large, small, huge = "N=8192 D=128", "N=1024 D=128", "N=65536 D=128"
    own, growth = "stor_ops", "peak_growth_mib"
    ratios = [
        results.ratio(f"{case}: at least {bound} x as fast as {peer}", case, [peer], own, bound)
        for case, peers, bound in ((large, COMPILED, 2), (large, PLAIN, 6), (small, PLAIN, 1))
        for peer in peers
    ]
    return [
        *ratios,
        results.within(f"{large}: at most 1.5 x the matmul floor", large, own, 1.5, FLOOR),
        results.at_most(f"{large}: peak growth below 48 MiB", large, own, growth, 48),
        results.at_most(f"{huge}: peak growth at most 200 MiB", huge, own, growth, 200),
    ]


METHOD = f"""\
Loss and gradient (forward and backward) of L2-normalised float32 features (N, D), each row's one positive
being the other row of its id, temperature {TEMPERATURE}, every row against all others. "Peak growth" is
resident memory above where it stood before the first call of that size, the gradient included.
The matmul floor multiplies what must be multiplied and does nothing else: half of the logits (they are
symmetric) in the forward pass, half again in the backward pass, one N x N by N x D product; whole
256 x 256 blocks by `torch.mm(out=)` that stay in the cache, on one thread per core or with each product
on all cores, whichever is faster. Its share of others' time is the part that is not overhead.
Checked before timing: loss and gradient against `stor_ops.reference` in float64; where that does not fit,
above N = {REFERENCE_ROWS}, loss and {CHECKED_ROWS} rows of the gradient by `info_nce_oracle.py`."""

SUITE = Suite(
    name="info_nce",
    title="multi_positive_info_nce, forward and backward, CPU",
    method=METHOD,
    ours="stor_ops",
    seconds=20.0,
    cases=cases,
    contenders=CONTENDERS,
    inputs=inputs,
    tiny=tiny,
    oracle=oracle,
    differences=differences,
    work=work,
    targets=targets,
)

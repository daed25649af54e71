"""What the tests of views, sampling and overlap share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from stor_ops import ViewPairs, Views

# A sampler under test: num_frames, heights, widths and keys, then the keywords of sample_view_pairs.
Sampler = Callable[..., ViewPairs]


def columns(
    rows: int, frames: int = 300, height: int = 240, width: int = 320, first_key: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """num_frames, heights, widths and keys of ``rows`` videos of one size."""
    sizes = (torch.full((rows,), size) for size in (frames, height, width))
    return *sizes, torch.arange(first_key, first_key + rows)


def mixed_columns(rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Videos of many sizes, from one frame and one pixel on, with keys of either sign."""
    generator = torch.Generator().manual_seed(1)

    def log_uniform(high: float) -> Tensor:
        exponent = torch.rand(rows, generator=generator, dtype=torch.float64)
        return (high**exponent).long()

    keys = torch.randint(-(2**63), 2**63 - 1, (rows,), generator=generator)
    return log_uniform(2000), log_uniform(5000), log_uniform(5000), keys


def bits(struct: Any) -> list[Tensor]:
    """The tensors of a struct as integers, so that equality means the same bits."""
    leaves: list[Tensor] = pytree.tree_leaves(struct)
    return [leaf.view(torch.int32) if leaf.is_floating_point() else leaf for leaf in leaves]


def same_bits(a: Any, b: Any) -> bool:
    """Whether two structs agree in every shape, dtype and bit."""
    pairs = zip(bits(a), bits(b), strict=True)
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


def p_value(observed: Tensor, expected: Tensor, freedom: int) -> float:
    """Chi-square test: how likely counts at least this far from the expected ones are."""
    statistic = ((observed - expected).square() / expected).sum()
    half = torch.tensor(freedom / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(half, statistic / 2))


def uniform_p(classes: Tensor, count: int) -> float:
    """How likely the classes are if all ``count`` are equally probable; 0 for one out of range."""
    if classes.min() < 0 or classes.max() >= count:
        return 0.0
    observed = torch.bincount(classes, minlength=count).double()
    return p_value(observed, torch.full_like(observed, len(classes) / count), count - 1)


def independent_p(a: Tensor, b: Tensor) -> float:
    """How likely the joint counts of two columns of classes are if they are independent."""
    rows, row_count = a.unique(return_inverse=True)[1], len(a.unique())
    cols, col_count = b.unique(return_inverse=True)[1], len(b.unique())
    table = torch.bincount(rows * col_count + cols, minlength=row_count * col_count)
    table = table.reshape(row_count, col_count).double()
    expected = table.sum(1, keepdim=True) * table.sum(0, keepdim=True) / table.sum()
    return p_value(table, expected, (row_count - 1) * (col_count - 1))


def quantile_bins(values: Tensor, count: int = 6) -> Tensor:
    """Index of the equally filled bin that each value falls into."""
    inner = torch.linspace(0, 1, count + 1, dtype=torch.float64)[1:-1]
    return torch.bucketize(values.double(), values.double().quantile(inner))


def box_size(views: Views) -> tuple[Tensor, Tensor]:
    """Width and height of each box, exactly."""
    box = views.box.double()
    return box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]


def inside_frame(views: Views, heights: Tensor | int, widths: Tensor | int) -> bool:
    """Whether every box has an area and lies inside its frame."""
    x0, y0, x1, y1 = views.box.double().unbind(1)
    return bool(((x0 >= 0) & (x0 < x1) & (x1 <= widths)).all()) and bool(
        ((y0 >= 0) & (y0 < y1) & (y1 <= heights)).all()
    )


def make_views(rows: int, videos: int = 3, seed: int = 0) -> Views:
    """Random overlapping views of a few videos."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    corner, size = rand(rows, 2) * 60, rand(rows, 2) * 60 + 1
    return Views(
        torch.randint(0, videos, (rows,), generator=generator),
        rand(rows) * 40 - 5,
        rand(rows) * 3 + 0.1,
        torch.cat([corner, corner + size], dim=1),
        rand(rows) < 0.5,
        torch.randint(0, 4, (rows,), generator=generator).to(torch.uint8),
    )

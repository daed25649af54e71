"""The CUDA kernels of sampling and overlap, emulated on the CPU, against the CPU ops: the same bits."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from types import ModuleType

import emulated
import numpy as np
import pytest
import torch
from emulator import build
from hypothesis import given
from hypothesis import strategies as st
from test_sampling import EXTREME_SHAPES, SETTINGS
from torch import Tensor
from torch.utils import _pytree as pytree
from view_cases import make_views, mixed_columns

import stor_ops
from stor_ops import Views

SOURCE = Path(__file__).parent / "emulator" / "kernels_module.cpp"
ORDERS = ["forward", "reverse", "random:1"]
BLOCK_TAILS = [1, 31, 255, 256, 257, 513]  # of blocks of 256 threads
CLIP = 16
NAN, INF = float("nan"), float("inf")

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    return build.load(SOURCE)


@pytest.fixture(params=ORDERS)
def ordered(kernels: ModuleType, request: pytest.FixtureRequest) -> ModuleType:
    kernels.set_order(request.param)
    return kernels


def arrays(columns: tuple[Tensor, ...]) -> list[np.ndarray]:
    return [column.contiguous().numpy() for column in columns]


def table(views: Views) -> dict[str, np.ndarray]:
    return emulated.views(**{f.name: getattr(views, f.name).numpy() for f in fields(views)})


def bits(array: np.ndarray) -> np.ndarray:
    return array.view(np.int32) if array.dtype == np.float32 else array


def assert_same_bits(got: list[np.ndarray], expected: object) -> None:
    leaves = [leaf.numpy() for leaf in pytree.tree_leaves(expected)]
    for column, (ours, theirs) in enumerate(zip(got, leaves, strict=True)):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), column
        np.testing.assert_array_equal(bits(ours), bits(theirs), f"column {column}")


# ---- sample_view_pairs


def videos(rows: int) -> tuple[Tensor, ...]:
    extremes = torch.tensor(EXTREME_SHAPES).repeat(4, 1)
    keys = torch.arange(len(extremes)) - len(extremes) // 2
    columns = map(torch.cat, zip((*extremes.T, keys), mixed_columns(rows), strict=True))
    return tuple(column[:rows] for column in columns)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_sampled_bits(ordered: ModuleType, settings: dict) -> None:
    columns = videos(300)
    got = emulated.sample_view_pairs(ordered, arrays(columns), **settings)
    assert_same_bits(got, stor_ops.sample_view_pairs(*columns, **settings))


@pytest.mark.parametrize("rows", BLOCK_TAILS)
def test_sampled_rows_around_a_block(ordered: ModuleType, rows: int) -> None:
    columns = videos(rows)
    got = emulated.sample_view_pairs(ordered, arrays(columns), epoch=3)
    assert_same_bits(got, stor_ops.sample_view_pairs(*columns, epoch=3))


@given(
    seed=st.integers(-(2**63), 2**63 - 1),
    epoch=st.integers(0, 2**32 - 1),
    draw=st.integers(0, 2**30 - 1),
    clip_frames=st.integers(1, 2**24),
    scale=st.tuples(st.floats(1e-3, 1), st.floats(1e-3, 1)).map(sorted),
    ratio=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(sorted),
    strides=st.lists(st.floats(0.1, 50), min_size=1, max_size=32),
    rates=st.lists(st.floats(0, 1), min_size=1, max_size=32),
    rotate=st.booleans(),
    flip=st.floats(0, 1),
)
def test_sampled_bits_under_any_settings(kernels: ModuleType, **settings: object) -> None:
    columns = videos(80)
    got = emulated.sample_view_pairs(kernels, arrays(columns), **settings)
    assert_same_bits(got, stor_ops.sample_view_pairs(*columns, **settings))


@pytest.mark.parametrize("bad", [0, -1, 2**24 + 1, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("column", range(3))
def test_a_video_without_a_meaning_gives_no_views(
    ordered: ModuleType, column: int, bad: int
) -> None:
    good, broken = videos(300), [column.clone() for column in videos(300)]
    rows = torch.tensor([0, 7, 255, 256, 299])
    broken[column][rows] = bad
    got = emulated.sample_view_pairs(ordered, arrays(tuple(broken)))
    expected = [leaf.clone() for leaf in pytree.tree_leaves(stor_ops.sample_view_pairs(*good))]
    for view in (expected[:6], expected[6:12]):
        video, start, stride, box, flip, rotation = view
        assert torch.equal(video, torch.arange(300))  # also of a row without a meaning
        start[rows] = stride[rows] = box[rows] = NAN
        flip[rows], rotation[rows] = False, 0
    for classes in expected[12:]:
        classes[rows] = -100
    assert_same_bits(got, expected)


# ---- overlap_rate and pairwise_overlap_rate

OPS = {False: stor_ops.overlap_rate, True: stor_ops.pairwise_overlap_rate}

FAULTS = [
    *(("video", value) for value in (-1, -(2**63))),
    *(("start", value) for value in (NAN, INF, -INF)),
    *(("stride", value) for value in (NAN, INF, 0.0, -0.0, -1.0)),
    *(("box", [value if i == edge else i // 2 + 1.0 for i in range(4)])
      for edge in range(4) for value in (NAN, INF, -INF)),
    *(("box", edges) for edges in ([1.0, 1, 1, 3], [4.0, 1, 1, 3], [1.0, 3, 4, 3], [1.0, 3, 4, 2])),
    ("rotation", 4),
    ("rotation", 255),
]  # fmt: skip


def extreme_views(rows: int, seed: int) -> Views:
    """Random ones, each eighth with fields from the ends of float32."""
    views, generator = make_views(rows, seed=seed), torch.Generator().manual_seed(seed)
    huge = torch.tensor([1e-45, 1e-30, 1e9, 1e30, 3.4e38])

    def pick(*shape: int) -> Tensor:
        return huge[torch.randint(len(huge), shape, generator=generator)]

    some = torch.arange(rows) % 8 == seed % 8
    count = int(some.sum())
    views.box[some] = torch.cat([-pick(count, 2), pick(count, 2)], 1)
    views.start[some], views.stride[some] = -pick(count), pick(count)
    return views


@pytest.mark.parametrize("rows", BLOCK_TAILS)
def test_overlap_of_rows(ordered: ModuleType, rows: int) -> None:
    first, second = extreme_views(rows, 1), extreme_views(rows, 2)
    got = emulated.overlap_rate(ordered, table(first), table(second), CLIP)
    assert_same_bits(got, stor_ops.overlap_rate(first, second, clip_frames=CLIP))


@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (3, 255), (2, 256), (2, 257), (9, 513), (257, 2), (5, 1)]
)
def test_overlap_of_all_pairs(ordered: ModuleType, rows: int, columns: int) -> None:
    first, second = extreme_views(rows, 1), extreme_views(columns, 2)
    got = emulated.overlap_rate(ordered, table(first), table(second), CLIP, pairwise=True)
    assert_same_bits(got, stor_ops.pairwise_overlap_rate(first, second, clip_frames=CLIP))


@pytest.mark.parametrize("clip_frames", [1, 2**24])
@pytest.mark.parametrize("pairwise", [False, True])
def test_overlap_of_any_clip_length(kernels: ModuleType, pairwise: bool, clip_frames: int) -> None:
    first, second = extreme_views(40, 1), extreme_views(40, 2)
    got = emulated.overlap_rate(kernels, table(first), table(second), clip_frames, pairwise)
    assert_same_bits(got, OPS[pairwise](first, second, clip_frames=clip_frames))


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("pairwise", [False, True])
def test_a_faulty_view_has_no_rates_and_others_do(
    ordered: ModuleType, pairwise: bool, side: int
) -> None:
    # one fault for each row, between good ones
    rows = 2 * len(FAULTS) + 1
    views = [make_views(rows, videos=1, seed=seed) for seed in (1, 2)]
    expected = [rate.clone() for rate in OPS[pairwise](*views, clip_frames=CLIP)]
    for i, (field, value) in enumerate(FAULTS):
        getattr(views[side], field)[2 * i + 1] = torch.tensor(value)
        for rate in expected:
            rate[(slice(None),) * (side if pairwise else 0) + (2 * i + 1,)] = NAN
    got = emulated.overlap_rate(ordered, *map(table, views), CLIP, pairwise)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs.numpy())  # any NaN equals any other
    assert np.isnan(got[2]).sum() == len(FAULTS) * (rows if pairwise else 1)

"""`sample_view_pairs` in plain torch: the same bits as the kernels, from the same formulas.

Integers stand for uint32 words in int64 tensors. Every float is a double, and each step one IEEE 754
operation, so that results agree bit for bit; csrc/views/sampling.h says why the formulas are what they
are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..views import ViewPairs, Views

_WORD = 0xFFFFFFFF

# The random words of one pair, in the order of PairDraws in csrc/views/sampling.h.
_WORDS = (
    *("spatial_class", "temporal_class", "stride", "ratio"),
    *("scale", "shift", "directions", "left"),
    *("top", "start", "short_shift", "rotation_first"),
    *("rotation_second", "flip_first", "flip_second", "spare"),
)


def philox4x32_10(counter: Sequence[Tensor], key: Sequence[Tensor]) -> list[Tensor]:
    """Philox 4x32-10 (Salmon et al., SC 2011): four words from four counter and two key words.

    Args:
        counter: four int64 tensors holding uint32 values.
        key: two int64 tensors holding uint32 values.

    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # The products wrap around in int64; their 64 bits are right all the same.
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _WORD) ^ c1 ^ k0,
            p1 & _WORD,
            ((p0 >> 32) & _WORD) ^ c3 ^ k1,
            p0 & _WORD,
        )
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return [c0, c1, c2, c3]


class _Draws:
    """The named random words of each video's pair."""

    def __init__(self, keys: Tensor, seed: int, epoch: int, draw: int) -> None:
        def word(value: int) -> Tensor:
            return torch.full_like(keys, value & _WORD)

        words = []
        for block in range(4):
            counter = [keys & _WORD, (keys >> 32) & _WORD, word(epoch), word(draw * 4 + block)]
            words += philox4x32_10(counter, [word(seed), word(seed >> 32)])
        self.words = dict(zip(_WORDS, words, strict=True))

    def uniform(self, name: str) -> Tensor:
        """Uniform in [0, 1)."""
        return self.words[name].double() / 2.0**32

    def below(self, name: str, count: Tensor | int) -> Tensor:
        """Uniform over 0 .. count - 1."""
        return (self.words[name] * count) >> 32

    def direction(self, bit: int) -> Tensor:
        """One random bit."""
        return (self.words["directions"] >> bit) & 1 == 1


def _pixel_grid(extent: Tensor) -> Tensor:
    """1 / 1024, or the next power of two of which float32 holds all multiples up to ``extent``."""
    grid = torch.full_like(extent, 1 / 1024)
    while (coarser := extent > grid * 2**24).any():
        grid = torch.where(coarser, 2 * grid, grid)
    return grid


def _floor_to(grid: Tensor, x: Tensor) -> Tensor:
    return torch.floor(x / grid) * grid


def _sqrt(x: Tensor) -> Tensor:
    # torch.sqrt may be off by the last bit on doubles; the kernels' is correctly rounded.
    return x.clone().apply_(math.sqrt)


def _power(base: float, fraction: Tensor) -> Tensor:
    """base^(fraction / 2^32)."""
    power = torch.ones_like(fraction, dtype=torch.float64)
    for bit in range(31, -1, -1):
        base = math.sqrt(base)
        power = torch.where((fraction >> bit) & 1 == 1, power * base, power)
    return power


def _largest_feasible_scale(p_over_q: Tensor, lowest_rate: float) -> Tensor:
    root = _sqrt(p_over_q)
    inverse = 1.0 / root
    m = root + inverse
    apart = m - _sqrt((m * m - 4.0 + lowest_rate).clamp(min=0.0))
    t = torch.maximum(apart, torch.maximum(root, inverse))
    return 1.0 / (t * t)


def _draw_shift(
    rate: Tensor, max_along: Tensor, max_across: Tensor, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    high = torch.minimum(max_along, 1.0 - rate)
    low = torch.where(max_across < 1.0, (1.0 - rate / (1.0 - max_across)).clamp(min=0.0), 0.0)
    low = torch.minimum(low, high)
    along = low + uniform * (high - low)
    across = torch.where(along < 1.0, 1.0 - rate / (1.0 - along), 0.0)
    return along, torch.minimum(across.clamp(min=0.0), max_across)


def _place(
    extent: Tensor, size: Tensor, shift: Tensor, swap: Tensor, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    """Lower edges of both boxes along one axis."""
    grid = _pixel_grid(extent)
    shift = torch.minimum(_floor_to(grid, shift + grid / 2), extent - size)
    lower = _floor_to(grid, uniform * (extent - size - shift))
    return torch.where(swap, lower + shift, lower), torch.where(swap, lower, lower + shift)


def _box_side(extent: Tensor, part: Tensor) -> Tensor:
    grid = _pixel_grid(extent)
    return torch.maximum(_floor_to(grid, torch.minimum(extent * part, extent)), grid)


def _draw_boxes(
    draws: _Draws,
    heights: Tensor,
    widths: Tensor,
    scale: Sequence[float],
    ratio: Sequence[float],
    rates: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor]:
    """Spatial class and both boxes."""
    extent = {"x": widths.double(), "y": heights.double()}
    drawn_ratio = ratio[0] * _power(ratio[1] / ratio[0], draws.words["ratio"])
    p_over_q = drawn_ratio * extent["y"] / extent["x"]
    feasible = _largest_feasible_scale(p_over_q, min(rates))
    low, high = feasible.clamp(max=scale[0]), feasible.clamp(max=scale[1])
    area = low + draws.uniform("scale") * (high - low)
    part = {"x": _sqrt(area * p_over_q), "y": _sqrt(area / p_over_q)}
    size = {axis: _box_side(extent[axis], part[axis]) for axis in extent}

    spatial_class = draws.below("spatial_class", len(rates))
    rate = torch.tensor(rates, dtype=torch.float64)[spatial_class]
    most = {axis: ((extent[axis] - size[axis]) / size[axis]).clamp(max=1.0) for axis in size}
    draw_x = draws.direction(0)
    along, across = _draw_shift(
        rate,
        torch.where(draw_x, most["x"], most["y"]),
        torch.where(draw_x, most["y"], most["x"]),
        draws.uniform("shift"),
    )
    edges = {}
    for axis, shift, bit, position in (
        ("x", torch.where(draw_x, along, across), 1, "left"),
        ("y", torch.where(draw_x, across, along), 2, "top"),
    ):
        edges[axis] = _place(
            extent[axis],
            size[axis],
            shift * size[axis],
            draws.direction(bit),
            draws.uniform(position),
        )
    first, second = (
        torch.stack(
            [edges["x"][i], edges["y"][i], edges["x"][i] + size["x"], edges["y"][i] + size["y"]],
            dim=1,
        ).float()
        for i in (0, 1)
    )
    return spatial_class, first, second


def _draw_times(
    draws: _Draws,
    num_frames: Tensor,
    clip_frames: int,
    strides: Sequence[float],
    rates: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Temporal class, playback class and both starts."""
    stride_of = torch.tensor(strides, dtype=torch.float64)
    shift_of = torch.tensor([math.floor((1.0 - rate) * clip_frames + 0.5) for rate in rates])

    def choose(steps: int) -> tuple[Tensor, Tensor]:
        """How many strides let ``steps`` frames lie inside the video, and a random one of them."""
        fits = steps * stride_of <= num_frames[:, None]
        count = fits.sum(1)
        wanted = draws.below("stride", count)[:, None]
        return count, ((fits.cumsum(1) - 1 == wanted) & fits).int().argmax(1)

    full_count, full_choice = choose(clip_frames + int(shift_of.max()))
    short_count, short_choice = choose(clip_frames)
    long_enough = full_count > 0
    smallest = torch.tensor(min(range(len(strides)), key=lambda i: strides[i]))
    playback = torch.where(
        long_enough, full_choice, torch.where(short_count > 0, short_choice, smallest)
    )
    stride = stride_of[playback]
    temporal = torch.where(long_enough, draws.below("temporal_class", len(rates)), -100)
    spare = num_frames.double() / stride - clip_frames
    short_shift = torch.where(
        spare >= 1.0, draws.below("short_shift", spare.clamp(min=0.0).floor().long() + 1), 0
    )
    shift = torch.where(long_enough, shift_of[temporal.clamp(min=0)], short_shift)
    room = (num_frames - (clip_frames + shift) * stride).clamp(min=0.0)
    early = draws.below("start", room.floor().long() + 1).double()
    late = early + shift * stride
    swap = draws.direction(3)
    first, second = torch.where(swap, late, early), torch.where(swap, early, late)
    return temporal, playback, first.float(), second.float()


def sample_view_pairs(
    num_frames: Tensor,
    heights: Tensor,
    widths: Tensor,
    keys: Tensor,
    *,
    clip_frames: int = 16,
    seed: int = 0,
    epoch: int = 0,
    scale: Sequence[float] = (0.2, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
    strides: Sequence[float] = (1, 2, 4, 8),
    rates: Sequence[float] = (1.0, 0.8, 0.6, 0.4, 0.2),
    rotate: bool = True,
    flip: float = 0.5,
    draw: int = 0,
) -> ViewPairs:
    """Draw two views of each video and their classes; see `stor_ops.sample_view_pairs`."""
    draws = _Draws(keys, seed, epoch, draw)
    spatial_class, first_box, second_box = _draw_boxes(draws, heights, widths, scale, ratio, rates)
    temporal_class, playback_class, *starts = _draw_times(
        draws, num_frames, clip_frames, strides, rates
    )
    stride = torch.tensor(strides, dtype=torch.float64)[playback_class].float()
    turns = torch.stack(
        [draws.below(name, 4) * int(rotate) for name in ("rotation_first", "rotation_second")],
        dim=1,
    )
    flips = [draws.uniform(name) < flip for name in ("flip_first", "flip_second")]
    first, second = (
        Views(
            torch.arange(len(keys)),
            starts[i],
            stride.clone(),
            box,
            flips[i],
            turns[:, i].to(torch.uint8),
        )
        for i, box in enumerate((first_box, second_box))
    )
    return ViewPairs(first, second, spatial_class, temporal_class, playback_class, turns)

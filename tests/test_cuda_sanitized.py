"""The CUDA kernels, emulated under sanitizers: in bounds whatever the views, and no race in a block.

Each test runs this file anew as a script, in a process with the sanitizer's library: NumPy only. All
arrays have exactly the bytes that a kernel may touch, so that one more is an error.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import emulated
import numpy as np

SOURCE = Path(__file__).parent / "emulator" / "kernels_module.cpp"
ORDERS = ("forward", "reverse", "random:1", "random:2")
DTYPES = ("float32", "float16", "bfloat16", "uint8")
BRIGHTEST = 200  # of any source: what stays 0xFF was not written


def to_float(array: np.ndarray, kind: str) -> np.ndarray:
    """In [0, 1] units."""
    if kind == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32) / (255 if kind == "uint8" else 1)


def make_source(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """The last pixel always ends the allocation; rows and bases of many alignments."""
    frames, height, width, channels = shape
    layout = rng.integers(5)
    if layout == 1:
        whole, part = (frames, channels, height, width), np.s_[:]
    elif layout == 2:  # the end of each row, and of each frame
        whole, part = (frames, height + 2, width + 3, channels), np.s_[:, 2:, 3:]
    elif layout == 3:
        whole, part = (frames, height, width, channels + 1), np.s_[..., 1:]
    else:
        whole, part = shape, np.s_[:]
    late = int(rng.integers(5)) if layout == 4 else 0  # elements before the first
    values = rng.integers(0, BRIGHTEST + 1, late + int(np.prod(whole)))
    if kind == "bfloat16":
        stored = ((values / np.float32(255)).astype(np.float32).view(np.uint32) >> 16).astype(
            np.uint16
        )
    else:
        stored = values.astype(np.uint8) if kind == "uint8" else (values / 255).astype(kind)
    video = stored[late:].reshape(whole)[part]
    return video.transpose(0, 2, 3, 1) if layout == 1 else video


def any_floats(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A third each: random bits, ends of the range, and around a small video."""
    bits = rng.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32)
    special = np.float32(
        [0, -0.0, 1e-45, 1e-30, 0.5, 1, 7, 1e9, 1e16, 1e30, 3.4e38, np.inf, np.nan]
    )
    ends = rng.choice(special, shape) * rng.choice(np.float32([-1, 1]), shape)
    near = rng.normal(5, 12, shape).astype(np.float32)
    return np.choose(rng.integers(3, size=shape), [bits, ends, near])


def have_meaning(views: dict[str, Any], videos: int = 2**63 - 1) -> np.ndarray:
    """Which rows do; without the number of videos, any index from 0 on is one."""
    video, start, stride, box, _, rotation = views.values()
    with np.errstate(invalid="ignore"):
        ordered = (box[:, 0] < box[:, 2]) & (box[:, 1] < box[:, 3])
        indexed = (video >= 0) & (video < videos) & (rotation < 4) & (stride > 0)
    return ordered & indexed & np.isfinite(start) & np.isfinite(stride) & np.isfinite(box).all(1)


def hostile_views(rng: np.random.Generator, rows: int, videos: int) -> dict[str, Any]:
    """Views whose fields are likely to be anything."""
    box, start, stride = (
        any_floats(rng, s).astype(np.float32) for s in ((rows, 4), (rows,), (rows,))
    )
    tame = rng.random(rows) < 0.6  # else hardly any would be valid
    corner, length = rng.normal(3, 9, (rows, 2)), rng.exponential(9, (rows, 2)) + 0.01
    box[tame] = np.concatenate([corner, corner + length], 1)[tame]
    ordered = rng.random(rows) < 0.7
    box[ordered] = np.sort(box.reshape(rows, 2, 2), 1).reshape(rows, 4)[ordered]
    stride[tame] = np.abs(stride[tame])
    video = rng.integers(0, videos, rows)
    rotation = rng.integers(0, 4, rows)
    wild = rng.random(rows) < 0.1
    video[wild] = rng.integers(-(2**63), 2**63 - 1, rows)[wild]
    close = rng.random(rows) < 0.05
    video[close] = rng.choice([-1, videos], rows)[close]
    wild = rng.random(rows) < 0.1
    rotation[wild] = rng.integers(0, 256, rows)[wild]
    fields = {"video": video, "start": start, "stride": stride, "box": box}
    return emulated.views(**fields, flip=rng.random(rows) < 0.5, rotation=rotation)


# ---- The script


def crops_of_hostile_views(kernels: Any) -> None:
    rng = np.random.default_rng(0)
    used = 0
    for turn, (kind, dtype) in enumerate(itertools.product(DTYPES * 30, DTYPES)):
        kernels.set_order(ORDERS[turn % 4])
        channels = int(rng.integers(1, 5))
        shapes = [(*rng.integers(1, (4, 14, 14)), channels) for _ in range(3)]
        videos = [make_source(rng, shape, kind) for shape in shapes]
        low, high = np.transpose([[f(to_float(v, kind)) for f in (np.min, np.max)] for v in videos])
        rows = int(rng.integers(1, 9))
        targets = [hostile_views(rng, rows, 3) for _ in range(turn % 2 + 1)]
        valid = [have_meaning(views, 3) for views in targets]
        size = tuple(int(n) for n in rng.integers(1, (4, 21, 21)))
        clips, rates = emulated.crop_resize(
            kernels,
            videos,
            targets,
            size,
            kind=kind,
            dtype=dtype,
            antialias=bool(rng.integers(2)),
            linear=bool(rng.integers(2)),
            channels_last=bool(rng.integers(2)),
        )
        for views, good, clip in zip(targets, valid, clips, strict=True):
            assert (
                not clip[~good].any()
                if dtype == "uint8"
                else np.isnan(to_float(clip[~good], dtype)).all()
            )
            shown, video = to_float(clip[good], dtype), views["video"][good]
            slack = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 8e-3, "uint8": 3e-3}[dtype]
            inside = (low[video] - slack <= shown.T) & (high[video] + slack >= shown.T)
            assert inside.all()  # NaN is not
            used += good.sum()
        for rate in rates:
            assert (np.isnan(rate) == ~(valid[0] & valid[1])).all()
    assert used > 1000, used


def wide_crops(kernels: Any) -> None:
    """Chunks of columns, rows in turn, single pixels: the ends of shared memory."""
    rng = np.random.default_rng(1)
    cases = [
        *((1, 1, 5000, (1, 4)), (3, 2, 2900, (1, 4)), (4, 3, 1640, (3, 5)), (3, 20, 900, (19, 40))),
        *(
            (1, 2, 8000, (1, 4)),
            (3, 1, 4001, (2, 3)),
            (1, 4001, 2, (16, 2)),
            (2, 70, 1301, (33, 3)),
        ),
        *((4, 9, 333, (18, 97)), (3, 35, 170, (17, 129))),
    ]
    for order, (channels, height, width, size) in itertools.product(ORDERS[1:3], cases):
        kernels.set_order(order)
        for kind in ("uint8", "bfloat16"):
            video = make_source(rng, (1, height, width, channels), kind)
            boxes = [(0, 0, width, height), (-40.3, -0.5, width - 0.25, height + 3.5)]
            views = emulated.views(box=boxes, flip=[False, True])
            (clips,), _ = emulated.crop_resize(kernels, [video], [views], (1, *size), kind=kind)
            assert clips.min() >= 0  # NaN is not
            assert clips.max() <= BRIGHTEST / 255 + 1e-5


def rows_of_hostile_views(kernels: Any) -> None:
    rng = np.random.default_rng(2)
    for turn, rows in enumerate((1, 2, 31, 255, 256, 257, 300) * 4):
        kernels.set_order(ORDERS[turn % 4])
        shapes = rng.integers(1, (400, 700, 700), (rows, 3))
        wild = rng.random((rows, 3)) < 0.1
        shapes[wild] = rng.choice([0, -1, 2**24 + 1, 2**63 - 1, -(2**63)], wild.sum())
        usable = ((shapes >= 1) & (shapes <= 2**24)).all(1)
        keys = rng.integers(-(2**63), 2**63 - 1, rows)
        columns = [*(column.copy() for column in shapes.T), keys]
        out = emulated.sample_view_pairs(kernels, columns, seed=turn, rates=(1.0, 0.3))
        for start, stride, box in (out[1:4], out[7:10]):
            for field in (start, stride, *box.T):
                assert (np.isfinite(field) == usable).all()
        for classes in out[12:]:
            assert (classes[~usable] == -100).all() and (classes[usable] >= -100).all()

        others = int(rng.integers(1, 300)) if rows < 40 else 3
        first, second, third = (hostile_views(rng, n, 2) for n in (rows, rows, others))
        good, fine, whole = map(have_meaning, (first, second, third))
        for rate in emulated.overlap_rate(kernels, first, second, 16):
            assert (np.isnan(rate) == ~(good & fine)).all()
        for rate in emulated.overlap_rate(kernels, first, third, 16, pairwise=True):
            assert (np.isnan(rate) == ~(good[:, None] & whole)).all()


def crops_for_races(kernels: Any) -> None:
    """Few blocks, for ThreadSanitizer is slow: each of them with other ways through the kernel."""
    rng = np.random.default_rng(3)
    cases = [
        *(
            (3, 9, 13, (5, 11), "float32"),
            (1, 3, 5000, (1, 4), "float32"),
            (2, 5, 4100, (2, 1), "float16"),
        ),
        *(
            (3, 40, 800, (17, 5), "bfloat16"),
            (4, 12, 20, (6, 7), "uint8"),
            (1, 5, 90, (3, 130), "uint8"),
        ),
    ]
    for channels, height, width, size, dtype in cases:
        video = make_source(rng, (2, height, width, channels), "uint8")
        box = [(0.25, 0, width, height), (0, 0, width, np.nan)]
        views = emulated.views(box=box, flip=[True, False], start=0.5)
        # Both turns: where the first is wide in the output, the second is in the source.
        turned = emulated.views(box=box, rotation=1)
        emulated.crop_resize(
            kernels, [video], [views, turned], (1, *size), dtype=dtype, linear=True
        )


CHECKS = {
    "asan": (crops_of_hostile_views, wide_crops, rows_of_hostile_views),
    "tsan": (crops_for_races,),
}

if __name__ == "__main__":
    import kernels_module

    for check in CHECKS[sys.argv[1]]:
        check(kernels_module)
        print(check.__name__)
    sys.exit()


# ---- The tests

import pytest  # noqa: E402
from emulator import build  # noqa: E402


@pytest.mark.parametrize("flavour", CHECKS)
def test_clean(flavour: str) -> None:
    if reason := build.why_not(flavour):
        pytest.skip(reason)
    done = build.run_sanitized(flavour, SOURCE, Path(__file__), flavour)
    expected = "".join(f"{check.__name__}\n" for check in CHECKS[flavour])
    assert (done.returncode, done.stdout) == (0, expected), done.stdout

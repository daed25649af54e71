"""The emulator itself: it runs kernels as CUDA would, and sees every planted bug by the right check.

The kernels are in emulator/planted.cuh, each with a bug and without.
"""

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from emulator import build

SOURCE = Path(__file__).parent / "emulator" / "planted_module.cpp"
BLOCK = 96
ORDERS = ["forward", "reverse", "random:1", "random:2"]

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    return build.load(SOURCE)


def aligned(n: int, dtype: type = np.float32, offset: int = 0) -> np.ndarray:
    """n elements from 0 on, ``offset`` elements beyond a multiple of 256 bytes."""
    size = np.dtype(dtype).itemsize
    memory = np.zeros(n * size + 512, np.uint8)
    begin = -memory.ctypes.data % 256 + offset * size
    array = memory[begin : begin + n * size].view(dtype)
    array[:] = np.arange(n)
    return array


def run(kernel: Callable[..., None], values: np.ndarray, *arguments: int) -> np.ndarray:
    out = np.full_like(values, np.nan)
    kernel(values.ctypes.data, out.ctypes.data, *arguments)
    return out


def left_neighbours(values: np.ndarray, width: int) -> np.ndarray:
    rows = values.reshape(-1, width)
    return np.concatenate([rows[:, :1], rows[:, 1:] + rows[:, :-1]], axis=1).ravel()


# ---- Kernels run as on a GPU


@pytest.mark.parametrize("order", ORDERS)
def test_correct_kernels(kernels: ModuleType, order: str) -> None:
    kernels.set_order(order)
    values = np.random.default_rng(0).standard_normal(4 * BLOCK).astype(np.float32)
    reversed_blocks = values.reshape(4, BLOCK)[:, ::-1].ravel()
    warp_sums = values.reshape(-1, 32).sum(axis=1).repeat(32)
    for n in (1, 31, 97, 200):
        np.testing.assert_array_equal(run(kernels.tail, values[:n].copy(), n), 2 * values[:n])
    np.testing.assert_array_equal(run(kernels.vectors, values, values.size), values)
    for kernel, expected in {
        "neighbours": left_neighbours(values, BLOCK),
        "warp_neighbours": left_neighbours(values, 32),
        "divergent_barrier": 2 * values,
        "static_overrun": reversed_blocks,
        "dynamic_overrun": reversed_blocks,
    }.items():
        np.testing.assert_array_equal(run(getattr(kernels, kernel), values, 4), expected, kernel)
    np.testing.assert_allclose(run(kernels.divergent_shuffle, values, 4), warp_sums, atol=1e-5)

    tiles = values[:320].reshape(5, 64)
    sums = run(kernels.reused_buffer, values[:320], 64, 5)[:64]
    np.testing.assert_allclose(sums, np.roll(tiles, -1, axis=1).sum(axis=0), atol=1e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_threads_that_return_are_not_waited_for(kernels: ModuleType, order: str) -> None:
    kernels.set_order(order)
    sums = run(kernels.early_return, np.ones(200, np.float32), 200)
    np.testing.assert_array_equal(sums[:3], [96, 96, 8])


@pytest.mark.parametrize("order", ORDERS)
def test_warp_primitives(kernels: ModuleType, order: str) -> None:
    kernels.set_order(order)
    out = np.zeros((2, 64, 8), np.int32)
    kernels.warp_primitives(out.ctypes.data, 2, 64)
    lane = np.arange(64) % 32
    every_third = sum(1 << i for i in range(0, 32, 3))
    expected = np.stack(
        [
            lane // 8 * 8 + 5,
            np.where(lane % 8 < 3, lane, lane - 3),
            np.where(lane % 8 > 4, lane, lane + 3),
            # a lane may read groups below its own, not above
            np.where((lane ^ 9) < lane // 8 * 8 + 8, lane ^ 9, lane),
            np.full(64, every_third),
            np.where(lane < 8, 0b11111000, 0),
            np.full(64, 14),
            np.full(64, 1),
        ],
        axis=1,
    )
    np.testing.assert_array_equal(out, np.stack([expected, expected]))


# ---- Bugs that show without a sanitizer


def test_a_missing_barrier_depends_on_the_order(kernels: ModuleType) -> None:
    values = np.arange(BLOCK, dtype=np.float32)
    right = left_neighbours(values, BLOCK)
    seen = {}
    for order in ORDERS:
        kernels.set_order(order)
        seen[order] = bool((run(kernels.neighbours_bug, values, 1) == right).all())
    assert seen == {"forward": True, "reverse": False, "random:1": False, "random:2": False}


@pytest.mark.parametrize("order", ORDERS)
def test_unwritten_shared_memory_is_nan(kernels: ModuleType, order: str) -> None:
    kernels.set_order(order)
    values = np.arange(4 * BLOCK, dtype=np.float32)
    static, dynamic = np.zeros_like(values), np.zeros_like(values)
    arguments = (values.ctypes.data, static.ctypes.data, dynamic.ctypes.data, 4)
    kernels.unwritten_shared(*arguments)
    np.testing.assert_array_equal(static, values)
    np.testing.assert_array_equal(dynamic, values)
    kernels.unwritten_shared_bug(*arguments)
    first_of_each_block = np.arange(4 * BLOCK) % BLOCK == 0
    np.testing.assert_array_equal(np.isnan(static), first_of_each_block)
    np.testing.assert_array_equal(np.isnan(dynamic), first_of_each_block)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (
            "divergent_barrier_bug",
            r"thread \(\d+,0,0\): divergent barrier.*__syncthreads\(\) at planted\.cuh:\d+",
        ),
        (
            "divergent_shuffle_bug",
            r"divergent barrier or warp operation.*48 in a barrier.*48 in a warp",
        ),
    ],
)
def test_divergence_is_named(kernels: ModuleType, order: str, kernel: str, message: str) -> None:
    kernels.set_order(order)
    values = np.ones(2 * BLOCK, np.float32)
    with pytest.raises(RuntimeError, match=rf"block \(0,0,0\).*{message}"):
        run(getattr(kernels, kernel), values, 2)
    # and the next launch knows nothing of it
    np.testing.assert_array_equal(run(kernels.divergent_barrier, values, 2), 2 * values)


def test_misaligned_accesses_are_named(kernels: ModuleType) -> None:
    values = aligned(64, offset=1)
    out = aligned(64)
    with pytest.raises(RuntimeError, match=r"misaligned access of 16 bytes, at planted\.cuh:\d+"):
        kernels.copy_vectors(values.ctypes.data, out.ctypes.data, 4, 1, 0)


def test_impossible_launches_are_refused(kernels: ModuleType) -> None:
    values = np.zeros(8, np.float32)
    with pytest.raises(RuntimeError, match=r"invalid configuration: block of \(1025,1,1\)"):
        run(kernels.reused_buffer, values, 1025, 0)
    with pytest.raises(RuntimeError, match=r"invalid configuration: grid of \(0,1,1\)"):
        run(kernels.neighbours, values, 0)
    with pytest.raises(ValueError, match="expected forward, reverse or random:SEED, got sideways"):
        kernels.set_order("sideways")


# ---- Under sanitizers

SETUP = """
import numpy as np, planted_module as kernels
BLOCK = kernels.BLOCK
values = np.ones(2 * BLOCK, np.float32)
out = np.full_like(values, np.nan)
first, second = values.ctypes.data, out.ctypes.data
odd, odd_out = np.ones(100, np.float32), np.ones(100, np.float32)
tail = odd.ctypes.data, odd_out.ctypes.data, 100
"""
ALL_CORRECT = """
for order in ("forward", "reverse", "random:1"):
    kernels.set_order(order)
    for name in ("neighbours", "warp_neighbours", "divergent_barrier", "divergent_shuffle",
                 "static_overrun", "dynamic_overrun"):
        getattr(kernels, name)(first, second, 2)
    kernels.tail(*tail)
    kernels.vectors(first, second, values.size)
    kernels.early_return(first, second, 100)
    kernels.reused_buffer(first, second, 64, 3)
    kernels.unwritten_shared(first, second, second, 2)
print("all ran")
"""
ERRORS_FIRST = """
for attempt in range(3):
    for name in ("divergent_barrier_bug", "divergent_shuffle_bug"):
        try:
            getattr(kernels, name)(first, second, 2)
        except RuntimeError as error:
            print(error)
"""


def run_sanitized(flavour: str, code: str) -> tuple[int, str]:
    if reason := build.why_not(flavour):
        pytest.skip(reason)
    done = build.run_sanitized(flavour, SOURCE, SETUP + code)
    return done.returncode, done.stdout


@pytest.mark.parametrize("flavour", ["asan", "tsan"])
def test_correct_kernels_are_clean(flavour: str) -> None:
    assert run_sanitized(flavour, ALL_CORRECT) == (0, "all ran\n")


@pytest.mark.parametrize("flavour", ["asan", "tsan"])
def test_a_failed_launch_leaves_nothing_behind(flavour: str) -> None:
    status, output = run_sanitized(flavour, ERRORS_FIRST + ALL_CORRECT)
    assert (status, output.count("divergent barrier"), output.count("\n")) == (0, 6, 7), output


@pytest.mark.parametrize(
    ("flavour", "call", "finding"),
    [
        ("asan", "tail_bug(*tail)", "heap-buffer-overflow.*READ of size 4.* in .*tail<true>"),
        (
            "asan",
            "dynamic_overrun_bug(first, second, 2)",
            "heap-buffer-overflow.*dynamic_overrun<true>",
        ),
        (
            "asan",
            "static_overrun_bug(first, second, 2)",
            r"index 96 out of bounds for type 'float \[96\]'",
        ),
        (
            "asan",
            "vectors_bug(first, second, values.size)",
            "misaligned address .* 'const struct float4'",
        ),
        ("tsan", "neighbours_bug(first, second, 1)", "data race.*neighbours<true>"),
        ("tsan", "reused_buffer_bug(first, second, 64, 3)", "data race.*reused_buffer<true>"),
        ("tsan", "warp_neighbours_bug(first, second, 1)", "data race.*warp_neighbours<true>"),
    ],
)
def test_planted_bugs_are_caught(flavour: str, call: str, finding: str) -> None:
    status, output = run_sanitized(flavour, f"kernels.{call}")
    assert status != 0, output
    assert re.search(finding, output, re.DOTALL), output


# ---- Memory traffic: what is read and written can be told beforehand


def count(kernels: ModuleType, kernel: str, *arguments: int) -> dict[str, dict]:
    kernels.set_order("random:3")  # which lane comes first does not matter
    kernels.start_traffic()
    getattr(kernels, kernel)(*arguments)
    return kernels.stop_traffic()


def copy(kernels: ModuleType, kernel: str, n: int, stride: int = 1, offset: int = 0) -> dict:
    values, out = aligned(4 * n * stride + 16), aligned(4 * n)
    return count(kernels, kernel, values.ctypes.data, out.ctypes.data, n, stride, offset)


def figures(tally: dict[str, int]) -> tuple[int, ...]:
    names = (
        "requests",
        "sectors",
        "ideal_sectors",
        "block_sectors",
        "unique_sectors",
        "unique_bytes",
    )
    return tuple(tally[name] for name in names)


# requests, sectors in them, ideally, distinct in each block, distinct in all, bytes; blocks of 3 warps
@pytest.mark.parametrize(
    ("kernel", "n", "stride", "offset", "reads", "writes"),
    [
        # 32 lanes of 4 bytes: 128 bytes in 4 sectors
        ("copy_floats", 384, 1, 0, (12, 48, 48, 48, 48, 1536), (12, 48, 48, 48, 48, 1536)),
        ("copy_bytes", 384, 1, 0, (12, 12, 12, 12, 12, 384), (12, 12, 12, 12, 12, 384)),
        ("copy_vectors", 96, 1, 0, (3, 48, 48, 48, 48, 1536), (3, 48, 48, 48, 48, 1536)),
        # every other float: half of each sector is wanted
        ("copy_floats", 96, 2, 0, (3, 24, 12, 24, 24, 384), (3, 12, 12, 12, 12, 384)),
        # one float in a sector, the worst there is
        ("copy_floats", 96, 8, 0, (3, 96, 12, 96, 96, 384), (3, 12, 12, 12, 12, 384)),
        # 4 bytes late: 5 sectors for each warp, which neighbours in a block share
        ("copy_floats", 384, 1, 1, (12, 60, 48, 52, 49, 1536), (12, 48, 48, 48, 48, 1536)),
        # all read the same float
        ("copy_floats", 96, 0, 0, (3, 3, 3, 1, 1, 4), (3, 12, 12, 12, 12, 384)),
        # the last warp with 4 lanes
        ("copy_floats", 100, 1, 0, (4, 13, 13, 13, 13, 400), (4, 13, 13, 13, 13, 400)),
    ],
)
def test_copies(
    kernels: ModuleType,
    kernel: str,
    n: int,
    stride: int,
    offset: int,
    reads: tuple[int, ...],
    writes: tuple[int, ...],
) -> None:
    report = copy(kernels, kernel, n, stride, offset)
    assert (figures(report["reads"]), figures(report["writes"])) == (reads, writes)
    assert report["reads"]["accesses"] == n
    assert report["writes"]["bytes_requested"] == writes[-1]


def test_reuse_counts_once_in_unique_sectors(kernels: ModuleType) -> None:
    values, out = aligned(385), aligned(384)
    report = count(kernels, "averages", values.ctypes.data, out.ctypes.data, 384)
    assert figures(report["reads"]) == (24, 48 + 60, 96, 52, 49, 4 * 385)
    left, right = sorted(
        (call for call in report["calls"].values() if call["direction"] == "read"),
        key=lambda call: call["sectors"],
    )
    assert figures(left) == (12, 48, 48, 48, 48, 4 * 384)
    assert figures(right) == (12, 60, 48, 52, 49, 4 * 384)


def test_requests_end_at_synchronisations(kernels: ModuleType) -> None:
    values, out = aligned(128), aligned(96)
    report = count(kernels, "uneven_loops", values.ctypes.data, out.ctypes.data, 1)
    # a warp: four rounds of 32, 24, 16 and 8 lanes, and after meeting one of all 32
    assert report["reads"]["accesses"] == 3 * (32 + 24 + 16 + 8 + 32)
    assert figures(report["reads"]) == (
        3 * 5,
        3 * 5 * 4,
        3 * (4 + 3 + 2 + 1 + 4),
        16,
        16,
        4 * (32 + 24 + 16 + 8),
    )


def test_counts_only_when_asked(kernels: ModuleType) -> None:
    values = aligned(96)
    run(kernels.neighbours, values, 1)
    kernels.start_traffic()
    report = kernels.stop_traffic()
    assert figures(report["reads"]) == figures(report["writes"]) == (0, 0, 0, 0, 0, 0)
    assert report["calls"] == {}


# ---- Building


def test_builds_once(kernels: ModuleType) -> None:
    library = build.build(SOURCE)
    before = library.stat().st_mtime_ns
    assert build.build(SOURCE) == library
    assert library.stat().st_mtime_ns == before


def test_a_failed_build_says_why(tmp_path: Path) -> None:
    source = tmp_path / "broken_module.cpp"
    source.write_text('#include "cuda_on_cpu.h"\n__global__ void broken() { undeclared(); }\n')
    with pytest.raises(RuntimeError, match=r"(?s)g\+\+ -std=c\+\+20.*'?undeclared"):
        build.build(source)

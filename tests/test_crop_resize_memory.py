"""Large clips lie in blocks of memory that crop_resize keeps for later ones (csrc/common/host_blocks.h)."""

import gc
import multiprocessing
import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from crops import make_video

import stor_ops
from stor_ops import Views, crop_resize, crop_resize_pair

if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 11):
    pytest.skip("this torch lends no memory to stor_ops", allow_module_level=True)

SIDE = 128
FRAME_BYTES = 3 * SIDE * SIDE * 4
MIB = 2**20


@pytest.fixture(autouse=True)
def _nothing_large_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STOR_OPS_KEEP_MEMORY", raising=False)
    held = [clips_of(4.5) for _ in range(4)]
    del held
    gc.collect()


def clips_of(mib: float, level: int = 0, **options) -> torch.Tensor:
    """One float32 clip of about that size, of a video that has the same level everywhere."""
    video = torch.full((1, 1, 8, 8, 3), level, dtype=torch.uint8)
    views = Views.from_boxes(torch.tensor([[0.0, 0, 8, 8]]))
    return crop_resize(video, views, (round(mib * MIB / FRAME_BYTES), SIDE, SIDE), **options)


def is_of(clips: torch.Tensor, level: int) -> bool:
    return bool(((clips - level / 255).abs() < 1e-3).all())


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MIB


def in_blocks(clips: torch.Tensor) -> bool:
    """Tensors in blocks cannot be resized beyond them: torch does not own the memory."""
    return not clips.untyped_storage().resizable()


def test_only_large_clips_lie_in_blocks():
    assert in_blocks(clips_of(5)) and in_blocks(clips_of(200))
    assert not in_blocks(clips_of(3))
    assert not in_blocks(clips_of(260))


def test_a_block_is_kept_for_the_next_clips():
    clips = clips_of(40)
    address = clips.data_ptr()
    del clips
    # malloc would hand this address out again, if it had been given back.
    others = [torch.empty(40 * MIB, dtype=torch.uint8) for _ in range(4)]
    for mib, kept in ((40, True), (36, True), (29, False), (39, True)):
        clips = clips_of(mib, level=7)
        assert (clips.data_ptr() == address) == kept, mib
        assert is_of(clips, 7)
        del clips
    del others


def test_clips_in_use_are_never_overwritten():
    held = {level: clips_of(6, level) for level in range(8)}
    assert len({clips.data_ptr() for clips in held.values()}) == len(held)
    part = held[3][:, 1]  # a view keeps the whole block
    del held[3], held[5]
    later = [clips_of(6, level) for level in (20, 21, 22)]
    assert is_of(part, 3)
    assert all(is_of(clips, level) for level, clips in held.items())
    assert all(is_of(clips, 20 + i) for i, clips in enumerate(later))


def test_at_most_four_blocks_are_kept():
    clips_of(9)  # what a first call needs besides
    before = resident_mib()
    held = [clips_of(64) for _ in range(8)]
    assert resident_mib() - before > 8 * 60
    del held
    assert resident_mib() - before < 4 * 64 + 30
    for _ in range(4):  # and smaller ones take their places
        held = [clips_of(5) for _ in range(4)]
        del held
    gc.collect()
    assert resident_mib() - before < 4 * 5 + 30


@pytest.mark.parametrize("last", [False, True])
def test_blocks_hold_tensors_like_others(last):
    memory_format = torch.channels_last_3d if last else torch.contiguous_format
    video = make_video(1, 20, 40, 50, 3)
    views = Views.from_boxes(
        torch.tensor([[3.0, 4, 40, 30]] * 2), video=0, flip=torch.tensor([False, True])
    )
    size, options = (11, 130, 141), {"memory_format": memory_format}
    small = [crop_resize(video, views[row : row + 1], size, **options) for row in range(2)]
    # What is not written would show: all kept blocks are full of something else.
    others = [crop_resize(torch.full_like(video, 255), views, size, **options) for _ in range(4)]
    addresses = {other.data_ptr() for other in others}
    del others
    both = crop_resize(video, views, size, **options)
    assert both.data_ptr() in addresses
    assert in_blocks(both) and not in_blocks(small[0])
    assert torch.equal(both, torch.cat(small))
    assert both.stride() == torch.empty(both.shape).to(memory_format=memory_format).stride()
    assert both.is_contiguous(memory_format=memory_format) and both.is_cpu
    assert both.untyped_storage().nbytes() == both.numel() * 4
    first, second, _ = crop_resize_pair(video, views, views, size, **options)
    assert torch.equal(first, both) and torch.equal(second, both)
    assert first.data_ptr() != second.data_ptr()
    both.share_memory_().add_(1)
    assert torch.equal(both, first + 1)


def test_threads_share_the_blocks():
    def check(number: int) -> bool:
        clips = clips_of(4.2 + number % 5, level=number)
        again = clips_of(4.2 + number % 3, level=number + 1)
        return is_of(clips, number) and is_of(again, number + 1)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, range(96)))


def _in_a_child(queue: "multiprocessing.Queue[bool]", held: torch.Tensor) -> None:
    torch.set_num_threads(1)
    queue.put(all(is_of(clips_of(8, level), level) for level in range(3)) and is_of(held, 9))


def test_after_a_fork_each_process_has_its_own():
    held = clips_of(8, 9)
    for level in range(3):
        clips_of(8, level)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_a_child, args=(queue, held))
    child.start()
    mine = clips_of(8, 40)
    assert queue.get(timeout=60)
    child.join(timeout=60)
    assert child.exitcode == 0
    assert is_of(mine, 40) and is_of(held, 9)


def test_compiled_code_takes_them():
    compiled = torch.compile(lambda video, views: crop_resize(video, views, (22, 128, 128)) * 2)
    video = make_video(1, 22, 30, 30, 3)
    views = Views.from_boxes(torch.tensor([[2.0, 3, 25, 28]]))
    expected = crop_resize(video, views, (22, 128, 128)) * 2
    for _ in range(3):
        assert torch.equal(compiled(video, views), expected)


# --- without ---------------------------------------------------------------------------------------


def test_memory_is_given_back_on_request(monkeypatch):
    before = resident_mib()
    held = [clips_of(64) for _ in range(4)]
    del held
    assert resident_mib() - before > 200
    monkeypatch.setenv("STOR_OPS_KEEP_MEMORY", "0")
    clips = clips_of(5, level=3)
    assert resident_mib() - before < 30
    assert is_of(clips, 3) and not in_blocks(clips)
    clips.resize_(clips.numel() * 2)
    monkeypatch.setenv("STOR_OPS_KEEP_MEMORY", "1")
    assert in_blocks(clips_of(5))


def test_kept_memory_is_given_back_before_memory_runs_out():
    """Four blocks of 250 MiB are kept, and the process may have 1.1 GiB in all."""
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_use_up_the_memory)
    child.start()
    child.join(timeout=120)
    assert child.exitcode == 0


def _use_up_the_memory() -> None:
    clips_of(250)
    held = [clips_of(250) for _ in range(4)]
    del held
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 100 * MIB, resource.RLIM_INFINITY))
    clips = clips_of(150, level=8)  # no kept block is small enough for it
    assert in_blocks(clips) and is_of(clips[:, :, :10], 8)


def test_a_torch_that_lends_no_memory_is_enough(tmp_path):
    """torch before 2.11 has no such function: the library loads and leaves memory to torch."""
    package = tmp_path / "stor_ops"
    shutil.copytree(Path(stor_ops.__file__).parent, package)
    library = package / "_cpu.so"
    name, other = b"\0torch_from_blob\0", b"\0torch_frOm_blob\0"
    assert name in library.read_bytes()
    library.write_bytes(library.read_bytes().replace(name, other))
    script = (
        "import torch, stor_ops\n"
        f"assert stor_ops.__file__.startswith({str(tmp_path)!r})\n"
        "video = torch.full((1, 1, 8, 8, 3), 51, dtype=torch.uint8)\n"
        "views = stor_ops.Views.from_boxes(torch.tensor([[0.0, 0, 8, 8]]))\n"
        "clips = stor_ops.crop_resize(video, views, (30, 128, 128))\n"
        "assert clips.untyped_storage().resizable()\n"
        "assert ((clips - 0.2).abs() < 1e-3).all()\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr

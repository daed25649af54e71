"""Large clips lie in blocks of memory that crop_resize keeps for later ones (csrc/common/host_blocks.h)."""

import gc
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from crops import make_video

from stor_ops import Views, crop_resize, crop_resize_pair

SIDE = 128
FRAME_BYTES = 3 * SIDE * SIDE * 4
MIB = 2**20


def clips_of(mib: float, level: int = 0, **options) -> torch.Tensor:
    """One float32 clip of about that size, of a video that has the same level everywhere."""
    video = torch.full((1, 1, 8, 8, 3), level, dtype=torch.uint8)
    views = Views.from_boxes(torch.tensor([[0.0, 0, 8, 8]]))
    return crop_resize(video, views, (round(mib * MIB / FRAME_BYTES), SIDE, SIDE), **options)


def is_of(clips: torch.Tensor, level: int) -> bool:
    return bool(((clips - level / 255).abs() < 1e-3).all())


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / MIB


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
    flip = torch.tensor([False, True])
    views = Views.from_boxes(torch.tensor([[3.0, 4, 40, 30]] * 2), video=0, flip=flip)
    small = [
        crop_resize(video, views[row : row + 1], (11, 130, 141), memory_format=memory_format)
        for row in range(2)
    ]
    both = crop_resize(video, views, (11, 130, 141), memory_format=memory_format)
    assert in_blocks(both) and not in_blocks(small[0])
    assert torch.equal(both, torch.cat(small))
    assert both.stride() == torch.empty(both.shape).to(memory_format=memory_format).stride()
    assert both.is_contiguous(memory_format=memory_format) and both.is_cpu
    assert both.untyped_storage().nbytes() == both.numel() * 4
    first, second, _ = crop_resize_pair(
        video, views, views, (11, 130, 141), memory_format=memory_format
    )
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


def test_the_blocks_survive_the_interpreter():
    """A tensor that is alive at exit gives its block back after all destructors have run."""
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_hold_to_the_end)
    child.start()
    child.join(timeout=120)
    assert child.exitcode == 0


def _hold_to_the_end() -> None:
    torch._held_to_the_end = clips_of(8), clips_of(12)


def test_compiled_code_takes_them():
    compiled = torch.compile(lambda video, views: crop_resize(video, views, (22, 128, 128)) * 2)
    video = make_video(1, 22, 30, 30, 3)
    views = Views.from_boxes(torch.tensor([[2.0, 3, 25, 28]]))
    expected = crop_resize(video, views, (22, 128, 128)) * 2
    for _ in range(3):
        assert torch.equal(compiled(video, views), expected)

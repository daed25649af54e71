"""crop_resize where memory, threads, processes and the compiler differ, but the clips must not."""

import pytest
import torch
import torch._dynamo.testing
from crops import SOURCES, make_video, make_views, poisoned_outputs  # noqa: F401

from stor_ops import Views, crop_resize, crop_resize_pair

OPTIONS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "temporal": "linear"}


@pytest.mark.parametrize("dtype", SOURCES)
def test_strided_sources_are_read_in_place(dtype):
    base = make_video(4, 18, 22, 6, dtype=dtype)
    sources = {
        "TCHW": base[..., :3].permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        "CTHW": base[..., :3].permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0),
        "planes, every third column": make_video(2, 3, 9, 24, dtype=dtype)[..., ::3].permute(
            0, 2, 3, 1
        ),
        "transposed": base[..., :3].transpose(1, 2),
        "steps": base[1::2, ::3, 1::2, ::2],
        "channel slice": base[..., 2:5],
        "expanded frames": base[:1, ..., :3].expand(5, -1, -1, -1),
        "expanded channels": base[..., :1].expand(-1, -1, -1, 3),
        "expanded everything": base[:1, :1, :1, :1].expand(3, 4, 5, 2),
    }
    for name, video in sources.items():
        views = make_views(5, [video])
        for linear in ("nearest", "linear"):
            strided = crop_resize([video], views, (3, 5, 4), temporal=linear)
            packed = crop_resize([video.contiguous()], views, (3, 5, 4), temporal=linear)
            assert torch.equal(strided, packed), name


def test_a_batch_equals_the_list_of_its_videos():
    batch = make_video(3, 4, 9, 8, 3).transpose(2, 3)
    views = make_views(7, [*batch])
    assert torch.equal(
        crop_resize(batch, views, (2, 5, 4)), crop_resize([*batch], views, (2, 5, 4))
    )
    steps = make_video(6, 4, 9, 8, 3)[::2]
    clips = crop_resize(steps, views, (2, 5, 4))
    assert torch.equal(clips, crop_resize([v.clone() for v in steps], views, (2, 5, 4)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_memory_formats_hold_the_same_clips(dtype, channels):
    videos = [make_video(3, 9, 8, channels)]
    views = make_views(5, videos)
    packed = crop_resize(videos, views, (2, 5, 4), dtype=dtype)
    last = crop_resize(videos, views, (2, 5, 4), dtype=dtype, memory_format=torch.channels_last_3d)
    like = torch.empty(5, channels, 2, 5, 4)
    assert packed.stride() == like.stride()
    assert last.stride() == torch.empty_like(like, memory_format=torch.channels_last_3d).stride()
    assert torch.equal(packed, last)


def test_views_with_strided_fields_and_shared_videos():
    videos = [make_video(4, 9, 8, 3), make_video(2, 5, 6, 3)]
    many = make_views(40, videos)
    clips = crop_resize(videos, many, (2, 4, 3))
    single = [crop_resize(videos, many[i], (2, 4, 3)) for i in range(40)]
    assert torch.equal(clips, torch.cat(single))
    sliced = many[::3]
    sliced = Views(
        *(getattr(sliced, name) for name in ("video", "start", "stride")),
        many.box.t().contiguous().t()[::3],
        sliced.flip,
        sliced.rotation,
    )
    assert not sliced.box.is_contiguous()
    assert torch.equal(crop_resize(videos, sliced, (2, 4, 3)), clips[::3])


def test_no_views():
    videos = make_video(2, 3, 4, 5, 3)
    none = make_views(4, [*videos])[:0]
    assert crop_resize(videos, none, (2, 6, 7)).shape == (0, 3, 2, 6, 7)
    first, second, overlap = crop_resize_pair(videos, none, none, (2, 6, 7))
    assert first.shape == second.shape == (0, 3, 2, 6, 7)
    assert [rate.shape for rate in overlap] == [(0,)] * 3
    assert crop_resize(videos[:0], none, (2, 6, 7)).shape == (0, 3, 2, 6, 7)


# --- threads and processes -----------------------------------------------------------------------


def test_bits_do_not_depend_on_the_number_of_threads():
    videos = [make_video(5, 31, 40, 3), make_video(9, 50, 37, 3)]
    views = make_views(11, videos)
    clips = {}
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            clips[threads] = crop_resize(videos, views, (5, 16, 15), **OPTIONS)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(clip, clips[1]) for clip in clips.values())


class Clips(torch.utils.data.Dataset):
    def __init__(self, videos, views):
        self.videos, self.views = videos, views

    def __len__(self):
        return len(self.views)

    def __getitem__(self, row):
        return crop_resize(self.videos, self.views[row], (3, 8, 8), **OPTIONS)[0]


@pytest.mark.parametrize("method", ["fork"])
def test_in_a_worker_process(method):
    videos = [make_video(5, 31, 40, 3)]
    views = make_views(6, videos)
    # The parent's thread pool is running by now; a worker that waited for it would hang.
    expected = crop_resize(videos, views, (3, 8, 8), **OPTIONS)
    torch.randn(600, 600) @ torch.randn(600, 600)
    loader = torch.utils.data.DataLoader(
        Clips(videos, views), 3, num_workers=2, multiprocessing_context=method, timeout=60
    )
    assert torch.equal(torch.cat([*loader]), expected)


# --- torch's own machinery -----------------------------------------------------------------------


def op_arguments(videos, views, *, pair=False, color=None, last=False, dtype=torch.float32):
    fields = [
        list(vars(part).values())
        for part in ((views, views[torch.arange(len(views)).flip(0)]) if pair else (views,))
    ]
    colors = (color, None) if pair else (color,)
    return (videos, *fields, [2, 4, 3], None, [0.5] * 3, *colors, True, True, dtype, last)


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_opcheck(pair, last):
    op = torch.ops.stor_ops.crop_resize_pair if pair else torch.ops.stor_ops.crop_resize
    ragged = [make_video(5, 31, 40, 3), make_video(2, 5, 6, 3)]
    batch = make_video(2, 3, 4, 5, 3, dtype=torch.bfloat16)
    for videos, dtype in ((ragged, torch.float32), ([batch], torch.float16)):
        views = make_views(4, ragged)
        color = torch.randn(4, 3, 4)
        arguments = op_arguments(videos, views, pair=pair, color=color, last=last, dtype=dtype)
        results = torch.library.opcheck(op.default, arguments)
        assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 1, 5), (2, 4, 3)])
def test_fake_clips_have_the_strides_of_real_ones(memory_format, channels, size):
    videos = [make_video(3, 9, 8, channels)]
    for rows in (0, 1, 5):
        views = make_views(rows, videos)
        options = {"memory_format": memory_format, "dtype": torch.bfloat16}
        real = crop_resize_pair(videos, views, views, size, **options)
        meta_videos, meta_views = [v.to("meta") for v in videos], views.to("meta")
        fake = crop_resize_pair(meta_videos, meta_views, meta_views, size, **options)
        for x, y in zip((*real[:2], *real[2]), (*fake[:2], *fake[2]), strict=True):
            assert y.is_meta
            assert (x.shape, x.stride(), x.dtype) == (y.shape, y.stride(), y.dtype)


def augment(videos, first, second, color):
    a, b, overlap = crop_resize_pair(
        videos, first, second, (2, 4, 3), color=(color, None), **OPTIONS
    )
    return a.sin() + crop_resize(videos, first, (2, 4, 3)), b * 2, overlap.joint


@pytest.mark.parametrize(
    ("backend", "dynamic"), [("aot_eager", False), ("aot_eager", True), ("inductor", None)]
)
def test_compile(backend, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(augment, fullgraph=True, backend=backend, dynamic=dynamic)
    for rows, sizes in ((4, [(5, 31, 40), (2, 5, 6)]), (6, [(4, 30, 41), (3, 6, 7)])):
        videos = [make_video(*size, 3) for size in sizes]
        first, second, color = (
            make_views(rows, videos),
            make_views(rows, videos),
            torch.randn(rows, 3, 4),
        )
        arguments = (videos, first, second, color)
        for x, y in zip(compiled(*arguments), augment(*arguments), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)
        if dynamic is None:
            return
    batch = torch.stack([videos[0]] * 2).transpose(2, 3)
    for x, y in zip(
        compiled(batch, first, second, color), augment(batch, first, second, color), strict=True
    ):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


def test_dynamic_shapes_do_not_recompile():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(augment, fullgraph=True, backend=counter, dynamic=True)
    counts = []
    for rows in (11, 5, 12, 13):  # none that equals another size, which the compiler would unify
        videos = [make_video(2 + rows, 9 * rows, 8, 3), make_video(3, 5 + rows, 6, 3)]
        first, second = make_views(rows, videos), make_views(rows, videos)
        compiled(videos, first, second, torch.randn(rows, 3, 4))
        counts.append(counter.frame_count)
    assert counts == counts[:1] * 4


def test_autocast_and_grad_modes_leave_clips_alone():
    videos = [make_video(5, 31, 40, 3, dtype=torch.float32)]
    views = make_views(4, videos)
    plain = crop_resize(videos, views, (2, 4, 3), **OPTIONS)
    assert not plain.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        mixed = crop_resize(videos, views, (2, 4, 3), **OPTIONS)
    with torch.inference_mode():
        inference = crop_resize(videos, views, (2, 4, 3), **OPTIONS)
    assert mixed.dtype == torch.float32
    assert torch.equal(plain, mixed)
    assert torch.equal(plain, inference)

"""What others offer for the job, each as its users would write it at its best.

A peer is a function of one clip. Libraries that use one core a call are run on a pool of threads, a clip
each; those that use several are also run clip after clip. Both ways are tried, the faster one is timed.
Each writes its batch into the same memory in every call, so that no peer pays for fresh pages of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .crop_job import MEAN, STD, Clip, Job, clips_of
from .suite import Case, Outputs, Work, load

Resize = Callable[
    [Tensor], Tensor
]  # uint8 (T, h, w, C), strided, to (T, C, H, W) of any dtype, 0 to 255
MakeResize = Callable[[Job], Resize]


def per_clip(make: MakeResize) -> Callable[[Case, Job], Mapping[str, Work]]:
    """Build the whole job out of a resize: then flip, normalise and store into one batch."""

    def build(case: Case, job: Job) -> Mapping[str, Work]:
        resize, clips = make(job), clips_of(job)
        scale = 1 / (255 * torch.tensor(STD).view(3, 1, 1, 1))
        shift = -torch.tensor(MEAN).view(3, 1, 1, 1) / torch.tensor(STD).view(3, 1, 1, 1)

        def one(clip: Clip, place: Tensor) -> None:
            frames = resize(clip.frames)
            if clip.flip:
                frames = frames.flip(-1)
            place.copy_(frames.transpose(0, 1))  # converts, too
            place.mul_(scale).add_(shift)

        @functools.cache
        def batch(way: str) -> Tensor:
            return _new_batch(job, len(clips))

        def in_sequence() -> Outputs:
            out = batch("sequence")
            for clip, place in zip(clips, out, strict=True):
                one(clip, place)
            return (out,)

        pool = ThreadPoolExecutor(
            torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)
        )

        def in_parallel() -> Outputs:
            out = batch("parallel")
            list(pool.map(one, clips, out))
            return (out,)

        return {"a clip per core": in_parallel, "clip after clip": in_sequence}

    return build


def _new_batch(job: Job, clips: int) -> Tensor:
    # numpy asks the system for large pages, as stor_ops does.
    return torch.from_numpy(load("numpy").empty((clips, 3, *job.size), dtype="float32"))


def interpolate_uint8(job: Job) -> Resize:
    """torch's uint8 path, on channels-last frames as they lie in memory."""

    def resize(frames: Tensor) -> Tensor:
        return F.interpolate(
            frames.permute(0, 3, 1, 2), job.size[1:], mode="bilinear", antialias=job.antialias
        )

    return resize


def interpolate_float(job: Job) -> Resize:
    """torch's float path; no rounding between."""

    def resize(frames: Tensor) -> Tensor:
        return F.interpolate(
            frames.permute(0, 3, 1, 2).float(),
            job.size[1:],
            mode="bilinear",
            antialias=job.antialias,
        )

    return resize


def torchvision_v2(job: Job) -> Resize:
    """Crop and resize a tv_tensors.Video, uint8, by the functional of RandomResizedCrop."""
    functional = load("torchvision.transforms.v2.functional")
    video = load("torchvision.tv_tensors").Video

    def resize(frames: Tensor) -> Tensor:
        height, width = frames.shape[1:3]
        small: Tensor = functional.resized_crop(
            video(frames.permute(0, 3, 1, 2)),
            *(0, 0, height, width),
            list(job.size[1:]),
            antialias=job.antialias,
        )
        return small.as_subclass(Tensor)

    return resize


def grid_sample(job: Job) -> Resize:
    """One grid for all frames of a clip, which stay channels-last: faster than frames as channels."""

    def resize(frames: Tensor) -> Tensor:
        y, x = ((torch.arange(size) + 0.5) * 2 / size - 1 for size in job.size[1:])
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        return F.grid_sample(
            frames.permute(0, 3, 1, 2).float(),
            grid.expand(len(frames), -1, -1, -1),
            padding_mode="border",
            align_corners=False,
        )

    return resize


def kornia(job: Job) -> Resize:
    """crop_and_resize with the same corners for all frames: centres of the first and last samples."""
    crop_and_resize = load("kornia.geometry.transform").crop_and_resize

    def resize(frames: Tensor) -> Tensor:
        (y0, y1), (x0, x1) = (
            (0.5 * extent / size - 0.5, extent - 0.5 - 0.5 * extent / size)
            for extent, size in zip(frames.shape[1:3], job.size[1:], strict=True)
        )
        corners = torch.tensor([[[x0, y0], [x1, y0], [x1, y1], [x0, y1]]])
        small: Tensor = crop_and_resize(
            frames.permute(0, 3, 1, 2).float(),
            corners.expand(len(frames), -1, -1),
            job.size[1:],
            padding_mode="border",
        )
        return small

    return resize


def cv2(job: Job) -> Resize:
    """cv2.resize frame by frame, into one buffer."""
    module = load("cv2")
    module.setNumThreads(1)  # a frame is too small to share; clips are shared out instead

    def resize(frames: Tensor) -> Tensor:
        small = torch.empty(job.size[0], *job.size[1:], 3, dtype=torch.uint8)
        for source, target in zip(frames.numpy(), small.numpy(), strict=True):
            module.resize(source, job.size[:0:-1], dst=target, interpolation=module.INTER_LINEAR)
        return small.permute(0, 3, 1, 2)

    return resize


def pillow(job: Job) -> Resize:
    """PIL frame by frame: resize with antialias, an EXTENT transform without."""
    image = load("PIL.Image")
    numpy = load("numpy")
    bilinear = image.Resampling.BILINEAR

    def small(frame: Any) -> Any:
        picture = image.fromarray(numpy.ascontiguousarray(frame))
        size = job.size[:0:-1]
        if job.antialias:
            return picture.resize(size, bilinear)
        return picture.transform(size, image.Transform.EXTENT, (0, 0, *picture.size), bilinear)

    def resize(frames: Tensor) -> Tensor:
        pictures = numpy.stack([numpy.asarray(small(frame)) for frame in frames.numpy()])
        return torch.from_numpy(pictures).permute(0, 3, 1, 2)

    return resize


def dali(case: Case, job: Job) -> Mapping[str, Work]:
    """A CPU pipeline fed with crops: resize, then crop_mirror_normalize to float32 CFHW."""
    numpy, torch_dlpack = load("numpy"), load("torch.utils.dlpack")
    package, fn, types = load("nvidia.dali"), load("nvidia.dali.fn"), load("nvidia.dali.types")
    clips = clips_of(job)
    flips = [numpy.array(int(clip.flip), dtype=numpy.int32) for clip in clips]

    def crops() -> list[Any]:
        return [numpy.ascontiguousarray(clip.frames.numpy()) for clip in clips]

    pipeline = package.Pipeline(
        batch_size=len(clips),
        num_threads=torch.get_num_threads(),
        device_id=None,
        prefetch_queue_depth=1,
        exec_async=False,
        exec_pipelined=False,
    )
    with pipeline:
        frames = fn.external_source(source=crops, layout="FHWC", batch=True, no_copy=True)
        mirror = fn.external_source(source=lambda: flips, batch=True)
        small = fn.resize(
            frames,
            size=list(job.size[1:]),
            interp_type=types.INTERP_LINEAR,
            antialias=job.antialias,
        )
        normal = fn.crop_mirror_normalize(
            small,
            dtype=types.FLOAT,
            output_layout="CFHW",
            mean=[255 * value for value in MEAN],
            std=[255 * value for value in STD],
            mirror=mirror,
        )
        pipeline.set_outputs(normal)
    pipeline.build()
    batch = functools.cache(lambda: _new_batch(job, len(clips)))

    def work() -> Outputs:
        (out,) = pipeline.run()
        # The next run overwrites DALI's buffer: users get a copy from its own iterators, too.
        return (batch().copy_(torch_dlpack.from_dlpack(out.as_tensor())),)

    return {"": work}

"""crop_resize on the CPU: uint8 videos to normalised clips, against what others offer for the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

import stor_ops

from . import crop_peers as peers
from .crop_job import MEAN, STD, Job, differences, make_job, oracle, source_bytes
from .suite import Case, Contender, Lookup, Outputs, Suite, Target, Work

Build = Callable[[Case, Job], Mapping[str, Work]]


def ours(dtype: torch.dtype) -> Build:
    """One call for the whole batch."""
    mean, std = (None, None) if dtype == torch.uint8 else (MEAN, STD)

    def build(case: Case, job: Job) -> Mapping[str, Work]:
        def work() -> Outputs:
            return (
                stor_ops.crop_resize(
                    job.videos,
                    job.views,
                    job.size,
                    antialias=job.antialias,
                    dtype=dtype,
                    mean=mean,
                    std=std,
                ),
            )

        return {"": work}

    return build


def pair(case: Case, job: Job) -> Mapping[str, Work]:
    """Both views of each video and their overlap in one call."""
    first, second = _halves(job)

    def work() -> Outputs:
        clips_first, clips_second, _ = stor_ops.crop_resize_pair(
            job.videos, first, second, job.size, antialias=job.antialias, mean=MEAN, std=STD
        )
        return clips_first, clips_second

    return {"": work}


def two_calls(case: Case, job: Job) -> Mapping[str, Work]:
    """The same by three ops."""
    halves = _halves(job)

    def work() -> Outputs:
        clips = [
            stor_ops.crop_resize(
                job.videos, views, job.size, antialias=job.antialias, mean=MEAN, std=STD
            )
            for views in halves
        ]
        stor_ops.overlap_rate(*halves, clip_frames=job.size[0])
        return clips

    return {"": work}


def _halves(job: Job) -> tuple[stor_ops.Views, stor_ops.Views]:
    middle = len(job.views) // 2
    return job.views[:middle], job.views[middle:]


def memory_copy(case: Case, job: Job) -> Mapping[str, Work]:
    """Copy of 256 MiB, by torch on all threads: the bytes per second that this machine can move."""
    source = torch.zeros(COPY_BYTES // 2, dtype=torch.uint8)
    target = torch.empty_like(source)
    return {"": lambda: (target.copy_(source),)}


COPY_BYTES = 2 * 2**28  # read and written
EXACT = {"largest_levels": 0.01, "mean_levels": 0.001}
WARPED = {"largest_levels": 0.05, "mean_levels": 0.01}  # by a homography in float32
ROUNDED = {"largest_levels": 2.0, "mean_levels": 0.6}  # to a level once or twice, in fixed point
ROUNDS = "rounds to uint8 after resizing"
COPY = "memory copy"

PEERS = (
    Contender("F.interpolate uint8", peers.per_clip(peers.interpolate_uint8), ROUNDED, ROUNDS),
    Contender("F.interpolate float", peers.per_clip(peers.interpolate_float), EXACT),
    Contender(
        "torchvision v2",
        peers.per_clip(peers.torchvision_v2),
        ROUNDED,
        ROUNDS,
        ("torchvision",),
    ),
    Contender("grid_sample", peers.per_clip(peers.grid_sample), EXACT),
    Contender("cv2", peers.per_clip(peers.cv2), ROUNDED, ROUNDS, ("cv2",)),
    Contender("PIL", peers.per_clip(peers.pillow), ROUNDED, ROUNDS, ("PIL", "numpy")),
    Contender("kornia", peers.per_clip(peers.kornia), WARPED, modules=("kornia",)),
    Contender("DALI CPU", peers.dali, ROUNDED, ROUNDS, ("nvidia.dali",)),
)
CONTENDERS = (
    Contender("stor_ops", ours(torch.float32), EXACT),
    Contender(
        "stor_ops bfloat16",
        ours(torch.bfloat16),
        {"largest_levels": 0.6, "mean_levels": 0.1},
        "bfloat16 out",
    ),
    Contender(
        "stor_ops float16",
        ours(torch.float16),
        {"largest_levels": 0.1, "mean_levels": 0.02},
        "float16 out",
    ),
    Contender(
        "stor_ops uint8",
        ours(torch.uint8),
        {"largest_levels": 0.51, "mean_levels": 0.3},
        "uint8 out, not normalised",
    ),
    Contender("stor_ops 1 thread", ours(torch.float32), EXACT, "on one core", threads=1),
    Contender("stor_ops pair", pair, EXACT, "crop_resize_pair; overlap, too"),
    Contender("stor_ops two calls", two_calls, EXACT, "crop_resize twice, overlap_rate"),
    *PEERS,
    Contender(COPY, memory_copy, None, f"copies {COPY_BYTES // 2**21} MiB: the ceiling of bytes/s"),
)

OURS = ("stor_ops", "stor_ops bfloat16", "stor_ops float16", "stor_ops uint8", "stor_ops 1 thread")
PLAIN_PEERS = tuple(peer.name for peer in PEERS)
# The others have no such filter (grid_sample, kornia, cv2's INTER_AREA is another one).
ANTIALIAS_PEERS = (
    "F.interpolate uint8",
    "F.interpolate float",
    "torchvision v2",
    "PIL",
    "DALI CPU",
)
STANDARD = [(64, 256, 340)] * 8


def cases(quick: bool) -> list[Case]:
    """Return the standard job both ways, then what differs from it."""
    if quick:
        videos, size = [(20, 48, 64), (16, 40, 56)], (4, 24, 28)
        return [
            _case("quick", videos, size, False, (*OURS[:2], *PLAIN_PEERS)),
            _case("quick antialias", videos, size, True, ("stor_ops", "stor_ops pair", "PIL")),
        ]
    clip = (16, 112, 112)
    few = ("stor_ops", "F.interpolate uint8", "torchvision v2", "PIL", COPY)
    sizes = ((64, 256, 340), (40, 240, 320), (17, 360, 480), (90, 256, 454))
    ragged = [*sizes, *((frames + 16, width, height) for frames, height, width in sizes)]
    return [
        _case("standard", STANDARD, clip, False, (*OURS, *PLAIN_PEERS, COPY)),
        _case("standard antialias", STANDARD, clip, True, (*OURS, *ANTIALIAS_PEERS, COPY)),
        _case("pair antialias", STANDARD, clip, True, ("stor_ops pair", "stor_ops two calls")),
        _case("1080p", [(16, 1080, 1920)] * 2, clip, False, (*few, "cv2")),
        _case("1080p antialias", [(16, 1080, 1920)] * 2, clip, True, few),
        _case("224 x 224 antialias", STANDARD[:4], (16, 224, 224), True, few),
        _case("one large video antialias", [(128, 480, 854)], clip, True, few, views=16),
        _case("ragged antialias", ragged, clip, True, few),
    ]


def _case(
    name: str,
    videos: list[tuple[int, int, int]],
    size: tuple[int, int, int],
    antialias: bool,
    contenders: tuple[str, ...],
    views: int = 2,
) -> Case:
    parameters = {"videos": videos, "size": size, "antialias": antialias, "views": views}
    return Case(name, parameters, contenders)


def tiny(case: Case) -> Case:
    """One small video."""
    return _case("tiny", [(8, 24, 32)], (4, 16, 16), case.parameters["antialias"], case.contenders)


def work(case: Case, contender: str) -> dict[str, float]:
    """Output pixels (of 3 channels), and the bytes that no program could leave unmoved."""
    if contender == COPY:
        return {"bytes": float(COPY_BYTES)}
    p = case.parameters
    frames, height, width = p["size"]
    pixels = float(p["views"] * len(p["videos"]) * frames * height * width)
    sizes = {"stor_ops bfloat16": 2, "stor_ops float16": 2, "stor_ops uint8": 1}
    written = pixels * 3 * sizes.get(contender, 4)
    return {"output pixel": pixels, "bytes": source_bytes(case) + written}


def targets(results: Lookup) -> list[Target]:
    """What the op is built for."""
    found = []
    for case, names, bound in (
        ("standard", PLAIN_PEERS, 10.0),
        ("standard antialias", ANTIALIAS_PEERS, 8.0),
    ):
        found += [
            results.ratio(
                f"{case}: at least {bound:.0f} x as fast as any peer",
                case,
                names,
                "stor_ops",
                bound,
            ),
            results.ratio(
                f"{case}: bfloat16 faster than float32", case, ["stor_ops"], "stor_ops bfloat16", 1
            ),
            results.ratio(
                f"{case}: two cores at least 1.8 x as fast as one",
                case,
                ["stor_ops 1 thread"],
                "stor_ops",
                1.8,
            ),
        ]
    text = "pair antialias: no slower than two calls, within 3 %"
    two, one = ["stor_ops two calls"], "stor_ops pair"
    return [*found, results.ratio(text, "pair antialias", two, one, 1 / 1.03)]


METHOD = """\
The standard job: 8 uint8 videos of 64 x 256 x 340 x 3, two views of each, every view 16 frames at stride 1,
2 or 4, cropped to 20 to 100 % of the area (edges on pixels, so that all peers can do the same), resized
bilinearly to 112 x 112, every second one flipped, normalised, float32 in (N, C, T, H, W), in a batch of
its own. Peers start from the same videos in memory and end with the same batch; those that work clip by
clip were tried with a clip per core and clip after clip (each on as many cores as it uses), and the
faster way was timed. They write into the same batch in every call, so that none of them pays for
fresh memory; stor_ops returns a new tensor each time, in memory that it keeps for the purpose.
Bytes are each crop read once and each clip written once, whatever a program really moves; "memory copy"
is what torch's copy of 256 MiB moves (read and written), the ceiling to compare with.
Checked before timing: every clip, against the weights of `stor_ops.reference` in float64. Errors
are in levels of 255."""

SUITE = Suite(
    name="crop_resize",
    title="crop_resize: uint8 video to normalised clips, CPU",
    method=METHOD,
    ours="stor_ops",
    seconds=10.0,
    cases=cases,
    contenders=CONTENDERS,
    inputs=make_job,
    tiny=tiny,
    oracle=oracle,
    differences=differences,
    work=work,
    targets=targets,
)

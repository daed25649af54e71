"""Videos and views for the tests of crop_resize, and poison in what it allocates."""

from collections.abc import Iterator, Sequence

import pytest
import torch

from stor_ops import Views

SOURCES = (torch.uint8, torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True, scope="module")
def poisoned_outputs() -> Iterator[None]:
    """Fresh memory, also of the C++ outputs, holds NaN (255 as uint8): an unwritten element shows.

    Not of clips of 4 MiB and more, whose memory stor_ops keeps itself: see test_crop_resize_memory.py.
    """
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def make_video(*shape: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    if dtype == torch.uint8:
        return torch.randint(0, 256, shape, dtype=dtype)
    return torch.rand(shape).to(dtype)


def make_views(rows: int, videos: Sequence[torch.Tensor], *, pixels: bool = False) -> Views:
    """Random views, most of them partly outside of their video in space and in time."""
    index = torch.randint(len(videos), (rows,))
    sizes = torch.tensor([[*v.shape[:3]] for v in videos])[index].double()
    frames, extent = sizes[:, 0], sizes[:, [2, 1]]
    corner = (torch.rand(rows, 2) * 1.2 - 0.3) * extent
    length = (torch.rand(rows, 2) * 1.2 + 0.02) * extent
    box = torch.cat([corner, corner + length], dim=1)
    if pixels:
        box = torch.cat([corner.floor(), (corner + length).ceil()], dim=1)
    return Views.from_boxes(
        box,
        video=index,
        start=(torch.rand(rows) * 1.5 - 0.4) * frames,
        stride=torch.rand(rows) * 2 + 0.1,
        flip=torch.rand(rows) < 0.5,
        rotation=torch.randint(4, (rows,)),
    )

"""More than two views of a video: what is drawn and decoded, and which views attract each other."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from barcode import write_barcode
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import stor_ops
from stor_ops import ViewPairs, Views, reference
from training.batch import Batch, collate
from training.config import Config, Data, Objective, differences, to_json, validate
from training.data import PairDataset
from training.decode import open_video
from training.errors import ConfigError
from training.model import Predictions
from training.objective import HEADS, JointObjective
from training.videos import VideoFile, list_videos

FOUR = Data(
    views=4, clip_frames=4, size=24, batch_size=4, workers=0, draws=2, strides=(1, 2), videos=("v",)
)


def draw_of(video: VideoFile, num_frames: int, draw: int) -> ViewPairs:
    """A draw of a barcode video in epoch 5, in units of the video."""
    return stor_ops.sample_view_pairs(
        *(torch.tensor([size]) for size in (num_frames, 64, 128, video.key)),
        **{name: getattr(FOUR, name) for name in ("clip_frames", "strides", "scale", "ratio")},
        seed=3,
        epoch=5,
        draw=draw,
    )


def assert_equal_pairs(left: ViewPairs | Views, right: ViewPairs | Views) -> None:
    """The same to the bit, but for the index of the video."""
    for name in {field.name for field in fields(left)} - {"video"}:
        mine, other = getattr(left, name), getattr(right, name)
        if isinstance(mine, Views):
            assert_equal_pairs(mine, other)
        else:
            assert torch.equal(mine, other), name


def noting_reads(decoded: list[list[int]]) -> Callable[..., Any]:
    """`open_video`, but each reader appends the list of the frames that it decodes."""

    def opened(path: str, **options: Any) -> Any:
        reader: Any = open_video(path, **options)
        read = reader._read
        frames: list[int] = []
        decoded.append(frames)

        def note(wanted: list[int]) -> Any:
            frames.extend(wanted)
            return read(wanted)

        reader._read = note
        return reader

    return opened


@pytest.mark.parametrize("num_frames", [3, 30])  # in 3 frames clips run past the end
def test_four_views_are_two_draws_from_one_decode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_frames: int
) -> None:
    for number, name in enumerate(("a.mp4", "b.mp4")):
        write_barcode(tmp_path / name, frames=num_frames, first=50 * number)
    videos = list_videos([str(tmp_path)])
    decoded: list[list[int]] = []
    monkeypatch.setattr("training.data.open_video", noting_reads(decoded))
    dataset = PairDataset(videos, FOUR, seed=3)
    assert len(dataset) == 4
    batch = collate([dataset[5, item] for item in range(4)])
    assert isinstance(batch, Batch)
    assert len(batch.videos) == len(batch.pairs) == len(batch.source) == 8
    assert batch.video.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert torch.equal(batch.video, batch.source.second.video)

    size = (FOUR.clip_frames, FOUR.size, FOUR.size)
    clips = stor_ops.crop_resize_pair(batch.videos, batch.pairs.first, batch.pairs.second, size)
    whole = []
    for video in videos:
        with open_video(video.path) as reader:
            whole.append(torch.from_numpy(reader.frames(range(num_frames))))
    for row in range(8):
        number, draw = divmod(
            row, 4
        )  # draws 0 and 1 in the first item of a video, 2 and 3 in the other
        drawn = draw_of(videos[number], num_frames, draw)
        assert_equal_pairs(batch.source[row], drawn)
        truth = stor_ops.crop_resize_pair([whole[number]], drawn.first, drawn.second, size)
        for view in range(2):
            assert torch.equal(clips[view][row], truth[view][0]), f"clip {view} of pair {row}"

    assert len(decoded) == 4, "an item opens its file once"
    for item, frames in enumerate(decoded):
        shown = {
            min(int(view.start[row] + t * view.stride[row]), num_frames - 1)
            for row in (2 * item, 2 * item + 1)
            for view in (batch.source.first, batch.source.second)
            for t in range(FOUR.clip_frames)
        }
        assert sorted(frames) == sorted(shown), "decoded: each frame that a clip shows, once"


@pytest.mark.parametrize(
    ("views", "item", "draws"), [(2, 0, [0]), (2, 1, [1]), (4, 1, [2, 3]), (6, 1, [3, 4, 5])]
)
def test_an_item_has_consecutive_draws(
    tmp_path: Path, views: int, item: int, draws: list[int]
) -> None:
    # A format: with other numbers a run would not be the one that it was.
    write_barcode(tmp_path / "a.mp4", frames=30)
    videos = list_videos([str(tmp_path)])
    sample = PairDataset(videos, replace(FOUR, views=views), seed=3)[5, item]
    assert sample.source is not None
    assert len(sample.source) == len(sample.excerpts) == len(draws)
    for row, draw in enumerate(draws):
        assert_equal_pairs(sample.source[row], draw_of(videos[0], 30, draw))


@pytest.mark.parametrize("views", [0, 1, 3, -2])
def test_odd_numbers_of_views_are_refused_by_name(views: int) -> None:
    message = rf"data\.views: expected an even number, at least 2, got {views}"
    with pytest.raises(ConfigError, match=message):
        validate(Config(data=replace(FOUR, views=views)))
    validate(Config(data=FOUR))


def test_a_run_does_not_continue_with_other_views() -> None:
    before = to_json(Config(data=FOUR, objective=Objective(positives="overlap")))
    changed = differences(before, Config(data=replace(FOUR, views=2)))
    assert changed == [
        "data.views: 4 in the checkpoint, 2 now",
        "objective.positives: overlap in the checkpoint, hard now",
    ]


def problem(shown: list[int]) -> tuple[Predictions, ViewPairs]:
    """Predictions of two pairs of each video shown, and the pairs, in units of whole videos."""
    count = 2 * len(shown)
    pairs = ViewPairs.cat(
        [
            stor_ops.sample_view_pairs(
                *(torch.tensor([size]) for size in (60, 48, 64, video)),
                clip_frames=FOUR.clip_frames,
                draw=2 * shown[:at].count(video) + draw,  # a video shown again has draws of its own
            )
            for at, video in enumerate(shown)
            for draw in range(2)
        ]
    )
    video = torch.tensor(shown).repeat_interleave(2)
    pairs = replace(
        pairs, first=replace(pairs.first, video=video), second=replace(pairs.second, video=video)
    )

    def both(width: int) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = (torch.randn(count, width, requires_grad=True) for _ in range(2))
        return first, second

    overlap = torch.randn(2, count, 5)
    return Predictions(overlap[0], overlap[1], both(4), both(4), both(6)), pairs


def contrast_by_hand(out: Predictions, pairs: ViewPairs, weights: Objective) -> torch.Tensor:
    """Every view against every other with the reference's N x N matrix, in float64."""
    first, second = pairs.first, pairs.second
    views = Views.cat([first, second])
    weight = (views.video[:, None] == views.video).float()
    if weights.positives == "overlap":
        weight = reference.pairwise_overlap_rate(views, views, clip_frames=FOUR.clip_frames).joint
    index = torch.arange(len(views)).expand(len(views), -1)
    return reference.multi_positive_info_nce(
        torch.cat(out.projection).double(),
        positive_index=index,
        positive_weight=weight.double().fill_diagonal_(0),
        temperature=weights.temperature,
        form=weights.form,
        normalize=True,
    )


@pytest.mark.parametrize("form", ["out", "in"])
@pytest.mark.parametrize("positives", ["hard", "overlap"])
@pytest.mark.parametrize("shown", [[0, 1, 2], [3, 1, 3]])  # draws = 2: a video may be shown twice
def test_objective_contrasts_all_views(shown: list[int], positives: Any, form: Any) -> None:
    out, pairs = problem(shown)
    weights = Objective(positives=positives, form=form, temperature=0.2, contrastive=1.0)
    outcome = JointObjective(Config(data=FOUR, objective=weights))(out, pairs)
    expected = contrast_by_hand(out, pairs, weights)
    torch.testing.assert_close(outcome.terms["contrastive"], expected.detach().float())

    # Heads predict from the pairs; they neither see V views nor other pairs of the video.
    heads = {
        "spatial": F.cross_entropy(out.spatial, pairs.spatial_class),
        "temporal": F.cross_entropy(out.temporal, pairs.temporal_class),
        "playback": sum(F.cross_entropy(guess, pairs.playback_class) for guess in out.playback),
        "rotation": sum(
            F.cross_entropy(guess, pairs.rotation_class[:, view])
            for view, guess in enumerate(out.rotation)
        ),
    }
    for head in HEADS:
        torch.testing.assert_close(outcome.terms[head], torch.as_tensor(heads[head]).detach())
    gradient = torch.autograd.grad(outcome.total, out.projection)
    truth = torch.autograd.grad(expected, out.projection)
    torch.testing.assert_close(gradient, truth, rtol=1e-4, atol=1e-6)


def test_objective_waits_for_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    # Fake tensors have no values: an op that waits for one is an error. No GPU is needed for them.
    monkeypatch.setattr("stor_ops._load.DEVICE_TYPES", {"cpu", "cuda"})
    config = Config(data=FOUR, objective=Objective(positives="overlap"))
    with FakeTensorMode(), torch.device("cuda"):
        outcome = JointObjective(config)(*problem([3, 1, 3]))
        assert outcome.total.device.type == "cuda"
        with pytest.raises(DataDependentOutputException):
            outcome.total.item()


def test_kinds_of_positives_differ() -> None:
    out, pairs = problem([0, 1, 2])
    losses = {
        positives: JointObjective(Config(data=FOUR, objective=Objective(positives=positives)))(
            out, pairs
        ).terms["contrastive"]
        for positives in ("hard", "overlap")
    }
    assert not torch.allclose(losses["hard"], losses["overlap"])

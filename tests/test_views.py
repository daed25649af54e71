"""The structs Views, ViewPairs and OverlapRate."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, fields

import pytest
import torch
from torch.utils import _pytree as pytree
from view_cases import columns, make_views, same_bits

from stor_ops import OverlapRate, ViewPairs, Views, crop_resize, overlap_rate, sample_view_pairs

ROWS = 6


def structs():
    return [make_views(ROWS), sample_view_pairs(*columns(ROWS))]


@pytest.fixture(params=[0, 1], ids=["Views", "ViewPairs"])
def struct(request):
    return structs()[request.param]


def rows_of(struct, rows: list[int]):
    """The same rows, leaf by leaf."""
    return pytree.tree_map(lambda leaf: leaf[torch.tensor(rows, dtype=torch.int64)], struct)


def test_fields_are_the_contract():
    assert [field.name for field in fields(Views)] == [
        *("video", "start", "stride", "box", "flip", "rotation"),
    ]
    assert [field.name for field in fields(ViewPairs)] == [
        *("first", "second", "spatial_class", "temporal_class"),
        *("playback_class", "rotation_class"),
    ]
    assert OverlapRate._fields == ("spatial", "temporal", "joint")


def test_frozen(struct):
    for field in fields(struct):
        with pytest.raises(FrozenInstanceError):
            setattr(struct, field.name, None)


def test_compared_and_hashed_by_identity(struct):
    assert struct == struct
    assert struct != copy.copy(struct)
    assert len({struct, copy.copy(struct)}) == 2


def test_len(struct):
    assert len(struct) == ROWS
    assert len(struct[:0]) == 0
    assert not struct[:0]


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (0, [0]),
        (5, [5]),
        (-1, [5]),
        (-6, [0]),
        (torch.tensor(2), [2]),
        (torch.tensor([2])[0], [2]),
        (torch.tensor(-1), [5]),
        (slice(None), [0, 1, 2, 3, 4, 5]),
        (slice(1, 3), [1, 2]),
        (slice(-2, None), [4, 5]),
        (slice(0, 6, 4), [0, 4]),
        (slice(9, 12), []),
        (torch.tensor([3, 0, 3]), [3, 0, 3]),
        (torch.tensor([-1, 1]), [5, 1]),
        (torch.tensor([], dtype=torch.int64), []),
        (torch.tensor([True, False, False, True, False, False]), [0, 3]),
        ([4, 1], [4, 1]),
        ((4, 1), [4, 1]),
        ((2,), [2]),
        ([], []),
    ],
    ids=str,
)
def test_index(struct, index, rows):
    chosen = struct[index]
    assert type(chosen) is type(struct)
    assert len(chosen) == len(rows)
    assert same_bits(chosen, rows_of(struct, rows))


def test_index_with_numpy(struct):
    np = pytest.importorskip("numpy")
    assert same_bits(struct[np.int64(-2)], rows_of(struct, [4]))
    assert same_bits(struct[np.array([3, 1])], rows_of(struct, [3, 1]))


@pytest.mark.parametrize("index", [6, -7, 2**70, [0, 6], torch.tensor(6), torch.tensor([-7])])
def test_index_out_of_range(struct, index):
    with pytest.raises(IndexError):
        struct[index]


def test_iteration_yields_every_row(struct):
    parts = list(struct)
    assert [len(part) for part in parts] == [1] * ROWS
    assert same_bits(type(struct).cat(parts), struct)


def test_to_and_device(struct):
    assert struct.device == torch.device("cpu")
    moved = struct.to("meta", non_blocking=True)
    assert type(moved) is type(struct)
    assert moved.device.type == "meta"
    assert {leaf.device.type for leaf in pytree.tree_leaves(moved)} == {"meta"}
    assert same_bits(struct.to("cpu"), struct)
    with pytest.raises(TypeError):
        struct.to()


def test_cat(struct):
    kind = type(struct)
    joined = kind.cat([struct, struct[:0], struct[2]])
    assert same_bits(joined, rows_of(struct, [0, 1, 2, 3, 4, 5, 2]))
    assert same_bits(kind.cat((struct,)), struct)
    with pytest.raises(ValueError, match=rf"{kind.__name__}\.cat: parts: "):
        kind.cat([])


def test_pytree_round_trip(struct):
    leaves, spec = pytree.tree_flatten(struct)
    assert len(leaves) == (6 if isinstance(struct, Views) else 16)
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves)
    again = pytree.tree_unflatten(leaves, spec)
    assert type(again) is type(struct)
    assert same_bits(again, struct)
    assert pytree.treespec_loads(pytree.treespec_dumps(spec)) == spec


def test_pickle_and_copy(struct):
    for again in (pickle.loads(pickle.dumps(struct)), copy.deepcopy(struct)):
        assert type(again) is type(struct)
        assert same_bits(again, struct)
        pytree.tree_leaves(again)[0].zero_()
    assert same_bits(struct, structs()[isinstance(struct, ViewPairs)])


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile_takes_and_returns_structs(backend):
    def change(pairs: ViewPairs, views: Views):
        moved = Views.from_boxes(views.box + 1, video=views.video, rotation=3)
        return ViewPairs.cat([pairs, pairs[:2]]), pairs[-1], moved[torch.tensor([1, 0])], len(views)

    compiled = torch.compile(change, fullgraph=True, backend=backend)
    views, pairs = structs()
    expected = change(pairs, views)
    got = compiled(pairs, views)
    assert [type(part) for part in got] == [ViewPairs, ViewPairs, Views, int]
    assert got[3] == expected[3] == ROWS
    assert same_bits(got[:3], expected[:3])


def test_export_takes_and_returns_views():
    class Shift(torch.nn.Module):
        def forward(self, views: Views) -> Views:
            return Views.from_boxes(views.box + 1, video=views.video)

    exported = torch.export.export(Shift(), (make_views(4),)).module()
    assert same_bits(exported(make_views(4)), Shift()(make_views(4)))


def test_from_boxes_defaults():
    views = Views.from_boxes(torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]]))
    assert views.video.tolist() == [0, 1]
    assert views.start.tolist() == [0, 0]
    assert views.stride.tolist() == [1, 1]
    assert views.box.dtype == torch.float32
    assert views.box.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert views.flip.tolist() == [False, False]
    assert views.rotation.tolist() == [0, 0]
    overlap_rate(views, views, clip_frames=2)  # every dtype is what the ops take
    assert crop_resize(torch.zeros(2, 3, 8, 8, 1).byte(), views, (1, 2, 2)).shape == (2, 1, 1, 2, 2)


def test_from_boxes_one_for_all_and_one_each():
    boxes = torch.rand(3, 4)
    views = Views.from_boxes(
        boxes,
        video=torch.tensor([2, 2, 0], dtype=torch.int32),
        start=torch.tensor([1, 2, 3]),
        stride=2,
        flip=True,
        rotation=torch.tensor([0, 1, 3]),
    )
    assert views.video.tolist() == [2, 2, 0]
    assert views.start.tolist() == [1, 2, 3]
    assert views.stride.tolist() == [2, 2, 2]
    assert views.flip.tolist() == [True] * 3
    assert views.rotation.tolist() == [0, 1, 3]
    assert [leaf.dtype for leaf in pytree.tree_leaves(views)] == [
        *(torch.int64, torch.float32, torch.float32),
        *(torch.float32, torch.bool, torch.uint8),
    ]
    assert len(Views.from_boxes(torch.zeros(0, 4))) == 0
    assert Views.from_boxes(torch.zeros(2, 4, device="meta")).device.type == "meta"

"""The CPU kernel of info_nce: many tiles, every instruction set, any number of threads."""

import math
from types import ModuleType

import pytest
import torch
from native.build import load
from test_info_nce import FORMS, KINDS, check, make_problem

from stor_ops import _info_nce_chunked, multi_positive_info_nce, reference

SUPPORTED = [
    name
    for name, capabilities in {
        "baseline": ("DEFAULT", "NO AVX", "AVX2", "AVX512"),
        "avx2": ("AVX2", "AVX512"),
        "avx512": ("AVX512",),
    }.items()
    if torch.backends.cpu.get_cpu_capability() in capabilities
]


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param not in SUPPORTED:
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setenv("STOR_OPS_ISA", request.param)
    return request.param


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return load(tmp_path_factory.mktemp("native"))


# --- tiles: blocks have 64 rows or more, up to 256 -------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("rows", "keys"),
    [
        *((64, None), (65, None), (193, None), (320, None), (1100, None)),
        *((130, 64), (65, 200), (400, 129), (3, 700), (700, 3), (1000, 2100)),
    ],
)
def test_tiles_do_not_show(kind, rows, keys):
    query, key, options = make_problem(kind, rows, keys, positives=4)
    for form in FORMS:
        check(query, key, {**options, "form": form, "reduction": "sum"}, tolerance=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_everything_is_a_positive_of_everything(form):
    query = torch.randn(300, 5, dtype=torch.float64)
    options = {"query_id": torch.zeros(300, dtype=torch.int64), "form": form}
    check(query, None, options, tolerance=1e-10)
    check(query, query[:200], {**options, "key_id": torch.zeros(200, dtype=torch.int64)})


@pytest.mark.parametrize("blocks", range(12))
def test_tournament_meets_every_pair_once_and_nobody_twice_a_round(native, blocks):
    rounds = native.tournament(blocks)
    met = [frozenset(pair) for pairs in rounds for pair in pairs]
    expected = {frozenset((i, j)) for i in range(blocks) for j in range(i + 1)}
    assert set(met) == expected
    assert len(met) == len(expected)
    for pairs in rounds:
        players = [player for pair in pairs for player in set(pair)]
        assert len(players) == len(set(players))


@pytest.mark.parametrize("queries", range(5))
@pytest.mark.parametrize("keys", range(5))
def test_rectangle_meets_every_pair_once_and_nobody_twice_a_round(native, queries, keys):
    rounds = native.rectangle(queries, keys)
    met = [pair for pairs in rounds for pair in pairs]
    assert sorted(met) == [(i, j) for i in range(queries) for j in range(keys)]
    for pairs in rounds:
        assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)


def gradients(query, key, options, dtype=torch.float32):
    leaves = [value.to(dtype).requires_grad_() for value in (query, key) if value is not None]
    temperature = torch.tensor(0.2, dtype=dtype, requires_grad=True)
    function = (
        multi_positive_info_nce if dtype == torch.float32 else reference.multi_positive_info_nce
    )
    other = None if key is None else leaves[1]
    loss = function(leaves[0], other, temperature=temperature, **options)
    return loss.detach(), *torch.autograd.grad(loss, [*leaves, temperature])


@pytest.mark.parametrize("keys", [None, 333])
def test_same_bits_for_any_number_of_threads(keys):
    query, key, options = make_problem("ids", 1500, keys, dim=24)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(gradients(query, key, options))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


# --- arithmetic --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("keys", [None, 150])
@pytest.mark.parametrize("dim", [1, 17, 64])
def test_float32_in_every_instruction_set(isa, keys, dim, form):
    query, key, options = make_problem("weights", 203, keys, dim=dim)
    for scale in (1, 0.2):
        actual = gradients(query * scale, key, {**options, "form": form})
        expected = gradients(query * scale, key, {**options, "form": form}, torch.float64)
        for mine, truth in zip(actual, expected, strict=True):
            assert (mine - truth).abs().max() <= 3e-6 * truth.abs().max().clamp(min=1), isa


@pytest.mark.parametrize("spread", [1, 30, 59, 61, 90, 500])
def test_rows_of_very_different_range(isa, spread):
    """One exponential per pair serves row and column only where their ranges are close."""
    # Row i has logits around +-spread with some rows, around 0 with the others.
    query = torch.randn(140, 6)
    query[::7] *= spread / 6
    query[70:77] = 0
    options = {"query_id": torch.arange(140) // 3, "reduction": "none", "temperature": 1.0}
    rows = multi_positive_info_nce(query, **options)
    exact = reference.multi_positive_info_nce(query.double(), **options)
    assert ((rows - exact).abs() <= 2e-6 * (exact.abs() + query.norm(dim=1).max() ** 2)).all()
    small = (rows < 20) & (torch.arange(140) % 7 != 0)
    assert ((rows - exact).abs() / exact)[small & (exact > 1)].max() <= 1e-4
    weights = torch.rand(140)
    leaf, exact_leaf = query.clone().requires_grad_(), query.double().requires_grad_()
    (multi_positive_info_nce(leaf, **options) * weights).sum().backward()
    (reference.multi_positive_info_nce(exact_leaf, **options) * weights).sum().backward()
    error = (leaf.grad - exact_leaf.grad).norm(dim=1)
    assert (error <= 2e-4 * exact_leaf.grad.norm(dim=1).clamp(min=1)).all()


@pytest.mark.parametrize("last", [True, False])
def test_one_side_of_a_tile_of_small_range_and_the_other_of_large(isa, last):
    """Each row of the tile has a logit of 81; one column has none above -27, and nothing elsewhere."""
    query = torch.zeros(66, 3)
    query[:, 0] = 9
    query[65, 0] = -3
    query = query if last else query.flip(0)
    options = {"query_id": torch.zeros(66, dtype=torch.int64), "temperature": 1.0}
    rows = multi_positive_info_nce(query, reduction="none", **options)
    exact = reference.multi_positive_info_nce(query.double(), reduction="none", **options)
    torch.testing.assert_close(rows.double(), exact, rtol=1e-5, atol=1e-5)


def test_exponential_to_the_last_digits(isa):
    """One key of logit 0 beside one of logit x: lse = log(1 + exp(x)), and exp(x) is its derivative's
    numerator."""
    x = torch.linspace(-86, 0, 20_001)
    query, key = x[:, None], torch.tensor([[0.0], [1.0]])
    temperature = torch.tensor(1.0)
    lists = (torch.zeros(len(x), dtype=torch.int64), torch.tensor([-1, -1]), None, None)
    lse, positive, _ = torch.ops.stor_ops.info_nce(query, key, temperature, *lists, False)
    torch.testing.assert_close(lse.double(), x.double().exp().log1p(), rtol=2e-7, atol=1e-7)
    ones, zeros = torch.ones_like(lse), torch.zeros_like(lse)
    # With the lse given as 0 the gradient of a query is the bare exp(x) of the second key.
    gradient = torch.ops.stor_ops.info_nce_backward(
        ones, zeros, zeros, positive, query, key, temperature, *lists, False, False
    )[0][:, 0]
    torch.testing.assert_close(gradient.double(), x.double().exp(), rtol=3e-7, atol=0)
    far = torch.tensor([[-88.0], [-1e6]])
    gradient = torch.ops.stor_ops.info_nce_backward(
        ones[:2], zeros[:2], zeros[:2], positive[:2], far, key, temperature,
        lists[0][:2], *lists[1:], False, False,
    )[0]  # fmt: skip
    assert not gradient.any()


def test_wrong_instruction_set_is_named(monkeypatch):
    monkeypatch.setenv("STOR_OPS_ISA", "sse9")
    with pytest.raises(ValueError, match=r"^multi_positive_info_nce: STOR_OPS_ISA: .*got sse9"):
        multi_positive_info_nce(torch.randn(2, 2), query_id=torch.zeros(2, dtype=torch.int64))


# --- the parts that other code relies on -------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("keys", [None, 90])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tile", [1, 500, 2**20])
def test_torch_version_for_other_devices(kind, keys, form, tile, monkeypatch):
    monkeypatch.setattr(_info_nce_chunked, "_TILE_ELEMENTS", tile)
    query, key, options = make_problem(kind, 75, keys)
    temperature = torch.tensor(0.4, dtype=torch.float64)
    names = ("query_id", "key_id", "positive_index", "positive_weight")
    arguments = (query, key, temperature, *(options.get(name) for name in names), form == "in")
    statistics = torch.ops.stor_ops.info_nce(*arguments)
    incoming = torch.randn(2, 75, dtype=torch.float64) * (statistics[2] > 0)
    incoming[0, 5] = 0
    for need_key in (False, True):
        arguments_back = (*incoming, *statistics[:2], *arguments, need_key)
        pairs = [
            (_info_nce_chunked.forward(*arguments), statistics),
            (
                _info_nce_chunked.backward(*arguments_back),
                torch.ops.stor_ops.info_nce_backward(*arguments_back),
            ),
        ]
        for mine, other in pairs:
            for x, y in zip(mine, other, strict=True):
                torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_statistics_and_gradients_of_blocks_of_keys_add_up(form):
    query, key, options = make_problem("ids", 40, 100)
    inside, temperature = form == "in", torch.tensor(0.3, dtype=torch.float64)

    def run(keys, key_id):
        arguments = (query, keys, temperature, options["query_id"], key_id, None, None, inside)
        return arguments, torch.ops.stor_ops.info_nce(*arguments)

    arguments, (lse, positive, weight) = run(key, options["key_id"])
    parts = [run(key[s], options["key_id"][s]) for s in (slice(0, 30), slice(30, 100))]
    first, second = (statistics for _, statistics in parts)
    torch.testing.assert_close(torch.logaddexp(first[0], second[0]), lse)
    merge = torch.logaddexp if inside else torch.add
    torch.testing.assert_close(merge(first[1], second[1]), positive)
    assert torch.equal(first[2] + second[2], weight)

    incoming = torch.rand(2, 40, dtype=torch.float64) * (weight > 0)
    back = torch.ops.stor_ops.info_nce_backward
    whole = back(*incoming, lse, positive, *arguments, True)
    pieces = [back(*incoming, lse, positive, *part, True) for part, _ in parts]
    torch.testing.assert_close(pieces[0][0] + pieces[1][0], whole[0])
    torch.testing.assert_close(torch.cat([pieces[0][1], pieces[1][1]]), whole[1])
    torch.testing.assert_close(pieces[0][2] + pieces[1][2], whole[2])


def test_no_gradient_of_keys_that_nobody_wants():
    query, key, options = make_problem("ids", 40, 100)
    arguments = (query, key, torch.tensor(0.3), options["query_id"], options["key_id"], None, None)
    lse, positive, _ = torch.ops.stor_ops.info_nce(*arguments, False)
    incoming = torch.ones(40, dtype=torch.float64)
    grad_key = torch.ops.stor_ops.info_nce_backward(
        incoming, incoming, lse, positive, *arguments, False, False
    )[1]
    assert grad_key.shape == (0,)


@pytest.mark.parametrize("scale", [1, 12])  # 12: no exponential serves both rows and columns
def test_infinite_statistics_of_rows_without_gradient_do_no_harm(scale):
    query = torch.randn(70, 4) * scale
    ids, temperature = torch.arange(70) // 2, torch.tensor(0.5)
    for key, key_id in ((None, None), (torch.randn(80, 4), torch.arange(80) // 2)):
        arguments = (query, key, temperature, ids, key_id, None, None, True)
        statistics = torch.ops.stor_ops.info_nce(*arguments)[:2]
        incoming = torch.ones(70)
        incoming[3:6] = 0
        results = []
        for value in (None, math.inf, -math.inf, math.nan, -1e4):
            changed = [values.clone() for values in statistics]
            for values in changed if value is not None else []:
                values[3:6] = value
            results.append(
                torch.ops.stor_ops.info_nce_backward(
                    incoming, -incoming, *changed, *arguments, True
                )
            )
        for other in results[1:]:
            assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))

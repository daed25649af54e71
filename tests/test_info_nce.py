"""multi_positive_info_nce: values, gradients and precision against the N x M reference."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stor_ops import multi_positive_info_nce, reference

FORMS, KINDS = ("out", "in"), ("ids", "index", "weights")


def make_problem(kind: str, rows: int, keys: int | None, dim: int = 5, positives: int = 3):
    """Query, key (None: against itself) and keywords: rows without positives and duplicates included."""
    query = torch.randn(rows, dim, dtype=torch.float64)
    key = None if keys is None else torch.randn(keys, dim, dtype=torch.float64)
    columns = rows if keys is None else keys
    if kind == "ids":
        options = {"query_id": torch.randint(-2, max(rows // 2, 2), (rows,))}
        if key is not None:
            options["key_id"] = torch.randint(-2, max(rows // 2, 2), (columns,))
        return query, key, options
    index = torch.randint(-1, max(columns, 1), (rows, positives)).clamp(max=columns - 1)
    index[::4] = -1
    options = {"positive_index": index}
    if kind == "weights":
        weight = torch.rand(rows, positives) * (torch.rand(rows, positives) < 0.7)
        weight[1::5] = 0
        options["positive_weight"] = weight
    return query, key, options


def check(query, key, options, *, tolerance=1e-11):
    """Loss and gradients of the op and of the reference agree."""
    results = []
    for function in (multi_positive_info_nce, reference.multi_positive_info_nce):
        temperature = options.pop("temperature", 0.2)
        leaves = [value.clone().requires_grad_() for value in (query, key) if value is not None]
        if isinstance(temperature, torch.Tensor):
            leaves.append(temperature.clone().requires_grad_())
        options["temperature"] = (
            leaves[-1] if isinstance(temperature, torch.Tensor) else temperature
        )
        loss = function(leaves[0], None if key is None else leaves[1], **options)
        options["temperature"] = temperature
        # Unequal weights, so that rows cannot hide behind each other.
        total = (loss * torch.arange(1.0, 1 + loss.numel()).view(loss.shape)).sum()
        results.append((loss, *torch.autograd.grad(total, leaves, allow_unused=True)))
    for actual, expected in zip(*results, strict=True):
        expected = torch.zeros_like(actual) if expected is None else expected
        assert actual.dtype == torch.float64
        assert actual.shape == expected.shape
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    return results[0]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keys", [None, 7, 40])
def test_equals_reference(kind, keys, form, reduction):
    query, key, options = make_problem(kind, 23, keys)
    options |= {"form": form, "reduction": reduction}
    for normalize in (False, True):
        loss = check(query, key, {**options, "normalize": normalize})[0]
        if reduction == "none":
            assert 0 < (loss == 0).sum() < 23  # some rows have no positive, some do
    check(query, key, {**options, "temperature": torch.tensor(0.3, dtype=torch.float64)})


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(KINDS),
    rows=st.integers(1, 9),
    keys=st.none() | st.integers(1, 9),
    dim=st.integers(1, 4),
    positives=st.integers(0, 4),
    form=st.sampled_from(FORMS),
    reduction=st.sampled_from(["mean", "sum", "none"]),
)
def test_equals_reference_for_any_shape(seed, kind, rows, keys, dim, positives, form, reduction):
    torch.manual_seed(seed)
    query, key, options = make_problem(kind, rows, keys, dim, positives)
    check(query, key, {**options, "form": form, "reduction": reduction})


def test_by_hand():
    query = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
    ids = torch.tensor([4, 4, -1])
    rows = multi_positive_info_nce(query, query_id=ids, temperature=0.5, reduction="none")
    # Row 0 scores 0 against its positive and 2 against row 2; itself is left out. Likewise row 1.
    loss = torch.log1p(torch.tensor(2.0).exp())
    torch.testing.assert_close(rows, torch.stack([loss, loss, torch.tensor(0.0)]))
    torch.testing.assert_close(multi_positive_info_nce(query, query_id=ids, temperature=0.5), loss)


def test_meaning_of_the_lists():
    query = torch.randn(6, 4)

    def loss(rows, weight=None, form="out", key=None):
        index = torch.full((6, 3), -1)
        index[2] = torch.tensor(rows + [-1] * (3 - len(rows)))
        weights = None if weight is None else torch.zeros(6, 3)
        if weights is not None:
            weights[2, : len(weight)] = torch.tensor(weight)
        lists = {"positive_index": index, "positive_weight": weights}
        return multi_positive_info_nce(query, key, **lists, form=form, reduction="none")[2]

    for form in FORMS:
        assert torch.equal(loss([4, 2], form=form), loss([4], form=form))  # its own row
        assert not torch.allclose(
            loss([4, 2], form=form, key=query), loss([4], form=form, key=query)
        )
        assert torch.equal(loss([4, 5], [1.0, 0.0], form), loss([4], form=form))  # weight 0
        torch.testing.assert_close(
            loss([4, 4, 1], form=form), loss([4, 1], [2.0, 1.0], form), rtol=1e-6, atol=1e-6
        )
    scaled = loss([4, 1], [6.0, 3.0])
    torch.testing.assert_close(loss([4, 1], [2.0, 1.0]), scaled)  # "out" is a mean


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("form", FORMS)
def test_nothing_to_learn_is_zero_with_zero_gradient(form, reduction):
    def ids(count, value=-1):
        return {"query_id": torch.full((count,), value)}

    alone, nothing = torch.randn(1, 3), torch.zeros(0, 3)
    cases = [
        (torch.randn(4, 3), None, ids(4)),
        (torch.randn(4, 3), None, {"query_id": torch.arange(4)}),
        (torch.randn(4, 3), None, {"positive_index": torch.full((4, 2), -1)}),
        (torch.randn(4, 3), None, {"positive_index": torch.zeros(4, 0, dtype=torch.int64)}),
        (alone, None, ids(1, 7)),  # N = 1: no key is left at all
        (alone, None, {"positive_index": torch.zeros(1, 1, dtype=torch.int64)}),
        (nothing, None, ids(0)),
        (nothing, torch.randn(3, 3), {**ids(0), "key_id": torch.arange(3)}),
        (alone, nothing, {**ids(1, 7), "key_id": ids(0)["query_id"]}),
        (alone, nothing, {"positive_index": torch.full((1, 2), -1)}),
    ]
    for query, key, options in cases:
        query = query.clone().requires_grad_()
        temperature = torch.tensor(0.1, requires_grad=True)
        options |= {"form": form, "reduction": reduction, "temperature": temperature}
        loss = multi_positive_info_nce(query, key, **options)
        assert loss.shape == ((len(query),) if reduction == "none" else ())
        assert not loss.any()
        loss.sum().backward()
        assert not query.grad.any()
        assert not temperature.grad.any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keys", [None, 4])
def test_gradcheck(kind, keys, form):
    query, key, options = make_problem(kind, 6, keys, dim=3)
    inputs = [query, *([] if key is None else [key]), torch.tensor(0.4, dtype=torch.float64)]

    def loss(*values):
        other = None if key is None else values[1]
        return multi_positive_info_nce(
            values[0], other, temperature=values[-1], form=form, normalize=True, **options
        )

    assert torch.autograd.gradcheck(loss, [value.requires_grad_() for value in inputs])


def test_gradient_only_where_it_is_required():
    query, key, options = make_problem("ids", 8, 9)
    loss = multi_positive_info_nce(query, key, **options)
    assert not loss.requires_grad
    for chosen in (query, key):
        loss = multi_positive_info_nce(query, key, **options)
        chosen.requires_grad_()
        multi_positive_info_nce(query, key, **options).backward()
        assert chosen.grad.any()
        chosen.grad, chosen.requires_grad = None, False
    assert query.grad is None


def test_second_gradients_are_refused():
    query, _, options = make_problem("ids", 8, None)
    loss = multi_positive_info_nce(query.requires_grad_(), **options)
    (gradient,) = torch.autograd.grad(loss, query, create_graph=True)
    with pytest.raises(
        NotImplementedError, match="multi_positive_info_nce: gradients of gradients"
    ):
        gradient.sum().backward()


# --- precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("dtype", "floor"), [(torch.float32, 1e-6), (torch.float16, 1e-4), (torch.bfloat16, 1e-3)]
)
def test_no_worse_than_torch(dtype, floor, form, normalize):
    query, key = torch.randn(96, 32).to(dtype), torch.randn(128, 32).to(dtype)
    ids = {"query_id": torch.randint(9, (96,)), "key_id": torch.randint(9, (128,))}
    options = {**ids, "form": form, "normalize": normalize, "temperature": 0.5}

    def run(function, to):
        leaves = [query.to(to).requires_grad_(), key.to(to).requires_grad_()]
        loss = function(*leaves, **options)
        return loss, *torch.autograd.grad(loss, leaves)

    exact = run(reference.multi_positive_info_nce, torch.float64)
    torchs = run(reference.multi_positive_info_nce, dtype)
    ours = run(multi_positive_info_nce, dtype)
    assert [value.dtype for value in ours] == [torch.float32, dtype, dtype]
    for mine, plain, truth in zip(ours, torchs, exact, strict=True):
        scale = truth.abs().max()
        error, allowed = (mine - truth).abs().max(), (plain - truth).abs().max()
        assert error <= 2 * allowed + floor * scale
    assert (ours[0] - exact[0]).abs() <= 2e-6 * exact[
        0
    ].abs()  # sums are in float32 for every dtype


def test_dtypes_may_differ():
    query, key, options = make_problem("ids", 12, 15)
    query, key = query.bfloat16().requires_grad_(), key.float().requires_grad_()
    temperature = torch.tensor(0.1, dtype=torch.float16, requires_grad=True)
    loss = multi_positive_info_nce(query, key, temperature=temperature, **options)
    loss.backward()
    assert loss.dtype == torch.float32
    for leaf in (query, key, temperature):
        assert leaf.grad.dtype == leaf.dtype
    exact = reference.multi_positive_info_nce(
        query.double(), key.double(), temperature=temperature.double(), **options
    )
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=1e-6)


def test_autocast_changes_no_bit():
    query, key, options = make_problem("weights", 64, 50, dim=32)
    query, key = query.float().requires_grad_(), key.float().requires_grad_()

    def run():
        loss = multi_positive_info_nce(query, key, normalize=True, **options)
        return loss, *torch.autograd.grad(loss, (query, key))

    outside = run()
    with torch.autocast("cpu", torch.bfloat16):
        assert F.linear(query, key).dtype == torch.bfloat16
        inside = run()
    assert all(torch.equal(x, y) for x, y in zip(outside, inside, strict=True))

"""stor_ops.nn.MultiPositiveInfoNCE: the function's values, a learned temperature, a module's manners."""

import copy
import math
import pickle

import pytest
import torch
from torch.optim import SGD

import stor_ops
from stor_ops import multi_positive_info_nce, reference
from stor_ops.nn import MultiPositiveInfoNCE

CHOICES = [
    {"form": form, "normalize": normalize, "reduction": reduction}
    for form in ("out", "in")
    for normalize in (False, True)
    for reduction in ("mean", "sum", "none")
]


def lists(rows: int, keys: int | None, kind: str) -> dict[str, torch.Tensor]:
    if kind == "ids":
        ids = {"query_id": torch.arange(rows) // 2}
        return ids if keys is None else {**ids, "key_id": torch.arange(keys) % (rows // 2)}
    index = torch.randint(-1, keys or rows, (rows, 3))
    return {"positive_index": index, "positive_weight": torch.rand(rows, 3)}


def learned(temperature: float = 0.1, **choices) -> MultiPositiveInfoNCE:
    return MultiPositiveInfoNCE(temperature, learnable=True, **choices)


@pytest.mark.parametrize("kind", ["ids", "weights"])
@pytest.mark.parametrize("keys", [None, 11])
@pytest.mark.parametrize("choices", CHOICES)
def test_equals_the_function(choices, keys, kind):
    query = torch.randn(8, 5)
    key = None if keys is None else torch.randn(keys, 5)
    options = lists(8, keys, kind)
    expected = multi_positive_info_nce(query, key, **options, temperature=0.3, **choices)
    assert torch.equal(MultiPositiveInfoNCE(0.3, **choices)(query, key, **options), expected)
    module = learned(0.3, **choices)
    torch.testing.assert_close(module(query, key, **options), expected, rtol=1e-6, atol=1e-6)


def test_defaults_are_the_functions_but_for_the_norm():
    query, ids = 3 * torch.randn(8, 5), torch.arange(8) // 2
    expected = multi_positive_info_nce(query, query_id=ids, normalize=True)
    assert torch.equal(MultiPositiveInfoNCE()(query, query_id=ids), expected)


@pytest.mark.parametrize("form", ["out", "in"])
@pytest.mark.parametrize("temperature", [0.01, 0.2, 1.0])  # both bounds, and between
def test_gradient_of_the_log_temperature_is_that_of_finite_differences(form, temperature):
    query, key = torch.randn(8, 5, dtype=torch.float64), torch.randn(9, 5, dtype=torch.float64)
    options = lists(8, 9, "weights")
    module = learned(temperature, form=form).double()
    with torch.no_grad():
        module.log_temperature.fill_(math.log(temperature))  # .double() keeps float32's rounding
    module(query, key, **options).backward()
    step = 1e-6

    def loss(log_temperature: float) -> torch.Tensor:
        fixed = {"temperature": math.exp(log_temperature), "normalize": True, "form": form}
        return reference.multi_positive_info_nce(query, key, **options, **fixed)

    begin = math.log(temperature)
    difference = (loss(begin + step) - loss(begin - step)) / (2 * step)
    torch.testing.assert_close(module.log_temperature.grad, difference, rtol=1e-6, atol=1e-8)


def attracted() -> tuple[torch.Tensor, torch.Tensor]:
    """Views close to their positives: a lower temperature is a lower loss, without end."""
    ids = torch.arange(8) // 2
    return torch.eye(4)[ids] + 0.01 * torch.randn(8, 4), ids


def test_temperature_learns_stays_in_range_and_comes_back():
    query, near = attracted()
    far = torch.tensor([0, 1, 2, 3, 1, 0, 3, 2])  # no view is close to its positive
    module = learned(0.5, temperature_range=(0.2, 0.6))
    optimizer = SGD(module.parameters(), lr=0.5, momentum=0.5)

    def train(ids: torch.Tensor, steps: int) -> list[float]:
        temperatures = []
        for _ in range(steps):
            optimizer.zero_grad()
            module(query, query_id=ids).backward()
            assert module.log_temperature.grad != 0, "the gradient is cut off"
            optimizer.step()
            temperatures.append(float(module.temperature))
        return temperatures

    falling, rising = train(near, 100), train(far, 100)
    assert 0.2 < falling[0] < 0.5
    assert falling[-1] == pytest.approx(0.2)
    assert rising[3] > 0.2, (
        "a few steps lead away from the bound, however long it was pushed against"
    )
    assert rising[-1] == pytest.approx(0.6)
    assert all(0.2 - 1e-6 <= value <= 0.6 + 1e-6 for value in falling + rising)


@pytest.mark.parametrize(("outside", "bound"), [(-40.0, 0.01), (40.0, 1.0), (-math.inf, 0.01)])
def test_a_temperature_far_outside_is_projected_and_recovers(outside, bound):
    query, ids = attracted()
    module = learned()
    with torch.no_grad():
        module.log_temperature.fill_(outside)
    assert module.temperature.item() == pytest.approx(bound)
    assert module.log_temperature.item() == outside, "reading does not write"
    expected = multi_positive_info_nce(query, query_id=ids, temperature=bound, normalize=True)
    loss = module(query, query_id=ids)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    assert module.log_temperature.item() == pytest.approx(math.log(bound)), "no way to go back"
    loss.backward()
    assert module.log_temperature.grad.isfinite()
    with torch.no_grad():
        module.log_temperature.fill_(outside)
    module.clamp_temperature()
    assert module.log_temperature.item() == pytest.approx(math.log(bound))


def test_two_forwards_may_share_one_backward():
    query, ids = attracted()
    module = learned(0.2)
    loss = module(query, query_id=ids) + module(query + 1, query_id=ids)
    loss.backward()
    assert module.log_temperature.grad.isfinite()


BAD = {
    "temperature": [(0, ValueError), (-1.0, ValueError), (math.nan, ValueError), ("1", TypeError)],
    "learnable": [(1, TypeError), (None, TypeError)],
    "temperature_range": [
        ((1.0, 0.01), ValueError),
        ((0.0, 1.0), ValueError),
        ((0.1,), ValueError),
        ((0.1, math.inf), ValueError),
        (0.1, TypeError),
    ],
    "form": [("both", ValueError), (None, ValueError)],
    "normalize": [("yes", TypeError)],
    "reduction": [("max", ValueError)],
}


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [(argument, value, error) for argument, cases in BAD.items() for value, error in cases],
)
def test_bad_arguments_are_named(argument, value, error):
    shown = str(value) if isinstance(value, float) and argument == "temperature" else ""
    message = rf"^MultiPositiveInfoNCE: {argument}(\[\d\])?: expected .*, got .*{shown}"
    with pytest.raises(error, match=message):
        MultiPositiveInfoNCE(**{argument: value})


def test_first_temperature_lies_in_the_range_if_it_is_learned():
    with pytest.raises(ValueError, match=r"temperature: expected .* \[0\.01, 1\.0\], got 2\.0"):
        learned(2.0)
    assert MultiPositiveInfoNCE(2.0).temperature == 2.0
    assert float(learned(2.0, temperature_range=(0.5, 3.0)).temperature) == pytest.approx(2.0)


def test_bad_input_is_an_error_of_the_op():
    with pytest.raises(ValueError, match="multi_positive_info_nce: query_id: expected either"):
        MultiPositiveInfoNCE()(torch.randn(4, 3))


@pytest.mark.parametrize("module", [MultiPositiveInfoNCE(0.3, form="in"), learned(0.3)])
def test_compiled_in_one_graph(module):
    query = torch.randn(8, 5, requires_grad=True)
    options = lists(8, None, "weights")
    results = []
    torch.compiler.reset()
    for function in (module, torch.compile(module, fullgraph=True, backend="aot_eager")):
        leaves = [query, *module.parameters()]
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.fill_(5.0)  # out of range: the projection has to be in the graph
        loss = function(query, **options)
        results.append([loss, *torch.autograd.grad(loss, leaves)])
        results[-1] += [value.detach().clone() for value in module.parameters()]
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)
    if module.learnable:
        assert results[1][-1] == 0, "projected to log 1"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_autocast_leaves_the_loss_in_float32(dtype):
    module = learned(0.2)
    layer = torch.nn.Linear(6, 5)
    inputs, ids = torch.randn(8, 6), torch.arange(8) // 2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = layer(inputs).to(dtype)
        features.retain_grad()
        loss = module(features, query_id=ids)
    loss.backward()
    assert (
        loss.dtype == module.log_temperature.grad.dtype == layer.weight.grad.dtype == torch.float32
    )
    assert features.grad.dtype == dtype
    outside = multi_positive_info_nce(
        features.detach(), query_id=ids, temperature=module.temperature, normalize=True
    )
    assert torch.equal(loss, outside), "autocast reaches into the loss"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_cast_module_computes_its_temperature_in_float32_at_least(dtype):
    module = learned(0.07).to(dtype)
    assert module.log_temperature.dtype == dtype
    assert module.temperature.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    query, ids = torch.randn(8, 5, dtype=dtype), torch.arange(8) // 2
    module(query, query_id=ids).backward()
    assert module.log_temperature.grad.dtype == dtype


def test_copies_keep_choices_and_temperature():
    module = learned(0.2, form="in", normalize=False, reduction="sum", temperature_range=(0.1, 0.4))
    with torch.no_grad():
        module.log_temperature.fill_(math.log(0.3))
    query, options = torch.randn(8, 5), lists(8, None, "weights")
    expected = module(query, **options)
    fresh = learned(form="in", normalize=False, reduction="sum", temperature_range=(0.1, 0.4))
    fresh.load_state_dict(module.state_dict())
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), fresh):
        assert torch.equal(other(query, **options), expected)
        assert repr(other).replace("=0.1,", "=0.2,") == repr(module)
        with torch.no_grad():
            other.log_temperature.fill_(0.0)
    assert float(module.temperature) == pytest.approx(0.3), "copies share nothing"


def test_state_is_the_log_temperature_alone_and_nothing_if_it_is_fixed():
    assert list(learned(0.2).state_dict()) == ["log_temperature"]
    assert not MultiPositiveInfoNCE(0.2).state_dict()
    with pytest.raises(RuntimeError, match="log_temperature"):
        MultiPositiveInfoNCE(0.2).load_state_dict(learned(0.2).state_dict())


def test_repr_names_the_choices_on_any_device():
    assert repr(MultiPositiveInfoNCE(0.3, form="in")) == (
        "MultiPositiveInfoNCE(temperature=0.3, form='in', normalize=True, reduction='mean')"
    )
    assert repr(learned(0.3).to("meta")) == (
        "MultiPositiveInfoNCE(temperature=0.3, learnable=True, temperature_range=(0.01, 1.0), "
        "form='out', normalize=True, reduction='mean')"
    )
    assert stor_ops.nn.MultiPositiveInfoNCE is MultiPositiveInfoNCE

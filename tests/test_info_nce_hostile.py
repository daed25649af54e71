"""multi_positive_info_nce: wrong arguments, extreme values, memory, the dispatcher and the compiler."""

import math
import subprocess
import sys

import pytest
import torch

from stor_ops import multi_positive_info_nce, reference

FORMS = ("out", "in")
QUERY, KEY, IDS = torch.randn(4, 3), torch.randn(5, 3), torch.tensor([0, 0, 1, 1])
WITH_GRADIENT = torch.ones(4, 2, requires_grad=True)
KEY_IDS, INDEX, WEIGHT = torch.arange(5), torch.tensor([[1, -1]] * 4), torch.ones(4, 2)
UNSET = {"query_id": None}


def at(tensor, row, value):
    changed = tensor.clone()
    changed[row, 1] = value
    return changed


def indexed(index=INDEX, weight=None, key=None):
    return {**UNSET, "positive_index": index, "positive_weight": weight, "key": key}


def keyed(**changes):
    return {"key": KEY, "key_id": KEY_IDS, **changes}


WRONG = {
    # name: (changed arguments, exception, what its text must match after the op's name)
    "query type": ({"query": [1.0]}, TypeError, r"query: .*got list"),
    "query dtype": ({"query": QUERY.long()}, TypeError, r"query: .*int64"),
    "query dim": ({"query": QUERY[0]}, ValueError, r"query: .*\(3,\)"),
    "key dtype": (keyed(key=KEY.long()), TypeError, r"key: .*int64"),
    "key width": (keyed(key=KEY[:, :2]), ValueError, r"key: .*\(any, 3\).*\(5, 2\)"),
    "key device": (keyed(key=KEY.to("meta")), ValueError, r"key: .*cpu.*meta"),
    "no positives": (UNSET, ValueError, r"query_id: .*neither"),
    "two kinds": ({"positive_index": INDEX}, ValueError, r"query_id: .*both"),
    "id dtype": ({"query_id": IDS.int()}, TypeError, r"query_id: .*int32"),
    "id rows": ({"query_id": IDS[:3]}, ValueError, r"query_id: .*\(4\).*\(3,\)"),
    "id dim": ({"query_id": IDS[:, None]}, ValueError, r"query_id: .*\(4, 1\)"),
    "id device": ({"query_id": IDS.to("meta")}, ValueError, r"query_id: .*cpu.*meta"),
    "key id missing": ({"key": KEY}, ValueError, r"key_id: .*none"),
    "key id alone": ({"key_id": KEY_IDS}, ValueError, r"key_id: .*one"),
    "key id with an index": ({**indexed(key=KEY), "key_id": KEY_IDS}, ValueError, r"key_id: .*one"),
    "key id rows": (keyed(key_id=IDS), ValueError, r"key_id: .*\(5\).*\(4,\)"),
    "key id dtype": (keyed(key_id=KEY_IDS.float()), TypeError, r"key_id: .*float32"),
    "index dtype": (indexed(INDEX.int()), TypeError, r"positive_index: .*int32"),
    "index rows": (indexed(INDEX[:3]), ValueError, r"positive_index: .*\(4, any\).*\(3, 2\)"),
    "index dim": (indexed(INDEX[:, 0]), ValueError, r"positive_index: .*\(4,\)"),
    "index above": (indexed(at(INDEX, 2, 4)), ValueError, r"positive_index row 2: .*-1 to 3, got 4"),
    "index above key": (indexed(at(INDEX, 3, 5), key=KEY), ValueError, r"positive_index row 3: .*got 5"),
    "index below": (indexed(at(INDEX, 1, -2)), ValueError, r"positive_index row 1: .*got -2"),
    "index huge": (indexed(at(INDEX, 0, 2**62)), ValueError, r"positive_index row 0: .*got 4611"),
    "weight alone": ({"positive_weight": WEIGHT}, ValueError, r"positive_weight: .*positive_index"),
    "weight dtype": (indexed(weight=WEIGHT.double()), TypeError, r"positive_weight: .*float64"),
    "weight shape": (indexed(weight=WEIGHT[:, :1]), ValueError, r"positive_weight: .*\(4, 1\)"),
    "weight negative": (indexed(weight=at(WEIGHT, 2, -0.5)), ValueError, r"positive_weight row 2: .*-0.5"),
    "weight NaN": (indexed(weight=at(WEIGHT, 1, math.nan)), ValueError, r"positive_weight row 1: .*nan"),
    "weight infinite": (indexed(weight=at(WEIGHT, 3, math.inf)), ValueError, r"positive_weight row 3: "),
    "weight gradient": (indexed(weight=WITH_GRADIENT), ValueError, r"positive_weight: .*grad"),
    **{
        f"temperature {value}": ({"temperature": value}, ValueError, rf"temperature: .*got {value}")
        for value in (0.0, -0.1, math.nan, math.inf)
    },
    **{
        f"temperature tensor {value}": ({"temperature": torch.tensor(value)}, ValueError, r"temperature: ")
        for value in (0.0, -0.5, math.nan, math.inf)
    },
    "temperature type": ({"temperature": "0.1"}, TypeError, r"temperature: .*got str"),
    "temperature dtype": ({"temperature": torch.tensor(1)}, TypeError, r"temperature: .*int64"),
    "temperature shape": ({"temperature": torch.ones(1)}, ValueError, r"temperature: .*\(1,\)"),
    "form": ({"form": "OUT"}, ValueError, r"form: .*'OUT'"),
    "reduction": ({"reduction": "max"}, ValueError, r"reduction: .*'max'"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    changes, exception, text = WRONG[name]
    arguments = {"query": QUERY, "query_id": IDS, **changes}
    with pytest.raises(exception, match=f"^multi_positive_info_nce: {text}"):
        multi_positive_info_nce(**arguments)


# --- extreme values ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [1e2, 1e4, 1e15])
def test_large_logits_do_not_overflow(form, scale):
    query = torch.randn(30, 8)
    ids = torch.arange(30) // 3
    results = []
    for function, dtype in (
        (multi_positive_info_nce, torch.float32),
        (reference.multi_positive_info_nce, torch.float64),
    ):
        leaf = (query * scale**0.5).to(dtype).requires_grad_()
        temperature = torch.tensor(1.0, dtype=dtype, requires_grad=True)
        loss = function(leaf, query_id=ids, form=form, temperature=temperature)
        results.append((loss, *torch.autograd.grad(loss, (leaf, temperature))))
    for actual, expected in zip(*results, strict=True):
        assert actual.isfinite().all()
        # Logits of 1e4 are spaced 1e-3 apart in float32, and no softmax of them is more exact.
        assert (actual - expected).abs().max() <= 2e-3 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_identical_embeddings(dtype):
    query = torch.ones(16, 4, dtype=dtype).requires_grad_()
    ids = torch.arange(16) // 2
    loss = multi_positive_info_nce(query, query_id=ids, temperature=0.01, normalize=True)
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor(math.log(15)), rtol=1e-5, atol=1e-5)
    assert query.grad.isfinite().all()


def test_zero_embeddings_can_be_normalised():
    query = torch.zeros(8, 4).requires_grad_()
    ids = torch.arange(8) // 2
    loss = multi_positive_info_nce(query, query_id=ids, normalize=True)
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor(math.log(7)))
    assert query.grad.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_broken_values_propagate(value, form):
    ids = torch.tensor([0, 0, 1, 1, 2])
    query, key = torch.rand(5, 3) + 0.1, torch.rand(5, 3) + 0.1
    broken = query.clone()
    broken[1, 0] = value
    options = {"query_id": ids, "form": form, "reduction": "none"}
    rows = multi_positive_info_nce(broken, key, key_id=ids, **options)
    good = multi_positive_info_nce(query, key, key_id=ids, **options)
    others = torch.arange(5) != 1
    assert not rows[1].isfinite()
    assert torch.equal(rows[others], good[others])
    broken.requires_grad_()
    multi_positive_info_nce(broken, query_id=ids, form=form).backward()
    assert not broken.grad.isfinite().all()
    if math.isnan(value):  # every query meets the broken key; but row 4 has no positive
        rows = multi_positive_info_nce(query, broken, key_id=ids, **options)
        assert rows[:4].isnan().all()


# --- memory --------------------------------------------------------------------------------------

MEASURE = """
import re, torch, stor_ops
torch.set_num_threads(1)

def peak_mib():  # of this program alone: getrusage would count what its parent had before exec
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024

def step(function, rows, listed):
    query = torch.randn(rows, 64, requires_grad=True)
    ids = torch.arange(rows) // 4
    lists = {"positive_index": (ids * 4)[:, None] + torch.arange(4)} if listed else {"query_id": ids}
    function(query, normalize=True, **lists).backward()

ours = stor_ops.multi_positive_info_nce
for rows in (1024, 2048, 8192):
    step(ours, rows, False); step(ours, min(rows, 4096), True)
    print(peak_mib())
step(stor_ops.reference.multi_positive_info_nce, 2048, False)
step(stor_ops.reference.multi_positive_info_nce, 4096, False)
print(peak_mib())
"""


def test_memory_is_linear():
    run = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, timeout=120
    )
    small, medium, large, matrix = map(float, run.stdout.split())
    # 8192 x 8192 logits would be 256 MiB; query, key and their gradients are 2 MiB each.
    assert large - small <= 32, run.stdout
    assert large - medium <= 24, run.stdout
    assert matrix - large >= 128, run.stdout  # a few matrices of 4096 x 4096 do show


# --- the dispatcher and the compiler -------------------------------------------------------------


def op_arguments(kind, inside, keyed, dtype=torch.float32):
    query = torch.randn(6, 4, dtype=dtype, requires_grad=True)
    key = torch.randn(9, 4, dtype=dtype, requires_grad=True) if keyed else None
    ids = (torch.arange(6) // 2, torch.arange(9) // 2 if keyed else None)
    index = torch.randint(-1, 9 if keyed else 6, (6, 3))
    positives = {"ids": (*ids, None, None), "weights": (None, None, index, torch.rand(6, 3))}[kind]
    temperature = torch.tensor(0.3, requires_grad=True)
    return query, key, temperature, *positives, inside


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "inside"), [("ids", True), ("weights", False)])
@pytest.mark.parametrize("keyed", [False, True])
def test_opcheck(kind, inside, keyed, dtype):
    arguments = op_arguments(kind, inside, keyed, dtype)
    results = torch.library.opcheck(torch.ops.stor_ops.info_nce.default, arguments)
    assert set(results.values()) == {"SUCCESS"}
    plain = [value.detach() if isinstance(value, torch.Tensor) else value for value in arguments]
    lse, positive, _ = torch.ops.stor_ops.info_nce(*plain)
    backward = torch.ops.stor_ops.info_nce_backward.default
    for need_key in (False, True):
        gradients = (torch.rand(6), torch.rand(6), lse, positive, *plain, need_key)
        results = torch.library.opcheck(backward, gradients)
        assert set(results.values()) == {"SUCCESS"}


def step(query, key, temperature, ids, key_ids, index, weight):
    options = {"temperature": temperature, "normalize": True}
    own = multi_positive_info_nce(query, query_id=ids, form="in", **options)
    listed = multi_positive_info_nce(
        query, key, positive_index=index, positive_weight=weight, **options
    )
    rows = multi_positive_info_nce(query, key, query_id=ids, key_id=key_ids, reduction="none")
    return own + 2 * listed + rows.square().sum()


@pytest.mark.parametrize(
    ("backend", "dynamic"), [("aot_eager", False), ("aot_eager", True), ("inductor", False)]
)
def test_compile(backend, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend=backend, dynamic=dynamic)
    for rows, keys in ((12, 17), (14, 19)):
        ids, key_ids = torch.arange(rows) // 2, torch.arange(keys) // 2
        lists = torch.randint(-1, keys, (rows, 5)), torch.rand(rows, 5)
        results = []
        for function in (step, compiled):
            torch.manual_seed(1)
            leaves = [torch.randn(rows, 8), torch.randn(keys, 8), torch.tensor(0.2)]
            leaves = [leaf.requires_grad_() for leaf in leaves]
            loss = function(*leaves, ids, key_ids, *lists)
            results.append((loss, *torch.autograd.grad(loss, leaves)))
        for eager, other in zip(*results, strict=True):
            torch.testing.assert_close(eager, other, rtol=1e-5, atol=1e-6)
        if backend == "inductor":
            return


def test_compile_with_a_temperature_schedule():
    torch._dynamo.reset()
    query, ids = torch.randn(6, 4), torch.arange(6) // 2

    def loss(temperature):
        return multi_positive_info_nce(query, query_id=ids, temperature=temperature)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for temperature in (0.1, 0.2, 0.3, 0.4):
        torch.testing.assert_close(compiled(temperature), loss(temperature))


def test_meta_tensors_have_the_shapes():
    query, ids = QUERY.to("meta").bfloat16(), IDS.to("meta")
    for reduction, shape in (("mean", ()), ("sum", ()), ("none", (4,))):
        loss = multi_positive_info_nce(query, query_id=ids, reduction=reduction)
        assert (loss.device.type, loss.shape, loss.dtype) == ("meta", shape, torch.float32)

"""What the GPU kernels cost by the compilers' account and the emulator's: benchmarks/kernels."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent / "emulator"))
import build
from benchmarks.kernels import budgets, compiler, traffic, triton_kernels

LIMITS = json.loads(budgets.FILE.read_text())["limits"]

compiled = pytest.mark.skipif(
    triton_kernels.why_not() is not None, reason=str(triton_kernels.why_not())
)
emulated = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))


@pytest.fixture(scope="module")
def figures() -> budgets.Table:
    return compiler.measure()


@pytest.fixture(scope="module")
def triton_figures() -> budgets.Table:
    return triton_kernels.measure()


# ---- Budgets


@compiled
def test_every_kernel_is_within_its_budget(
    figures: budgets.Table, triton_figures: budgets.Table
) -> None:
    assert budgets.violations(LIMITS, figures | triton_figures) == []


@compiled
def test_every_kernel_is_compiled(figures: budgets.Table) -> None:
    sources = sorted((compiler.ROOT / "csrc").rglob("*.cuh"))
    kernels = {
        line.split("(")[0].split()[-1]
        for path in sources
        for line in path.read_text().replace("(kCropThreads, kCropBlocks)", "").splitlines()
        if "_kernel(" in line
    }
    assert {name.split("<")[0] for name in figures} == kernels
    outputs = {name for name in figures if name.startswith("crop_resize")}
    assert outputs == {
        f"crop_resize_kernel<{dtype}>" for dtype in ("float", "float16", "bfloat16", "uint8")
    }
    assert all(list(rows) == list(compiler.ARCHITECTURES) for rows in figures.values())


@compiled
def test_every_triton_kernel_is_compiled(triton_figures: budgets.Table) -> None:
    sources = (compiler.ROOT / "stor_ops" / "_triton").glob("*.py")
    kernels = {
        line.removeprefix("def ").split("(")[0]
        for path in sources
        for line in path.read_text().splitlines()
        if line.startswith("def ") and "_kernel(" in line
    }
    assert {name.split("<")[0].removesuffix("_ieee") for name in triton_figures} == kernels
    for kernel in ("statistics_kernel", "gradient_kernel"):
        for dtype in ("float16", "bfloat16", "float32"):
            assert set(triton_figures[f"{kernel}<{dtype}, 128>"]) == set(compiler.ARCHITECTURES)


@compiled
@pytest.mark.parametrize("backward", [False, True])
def test_sizes_of_one_compile(backward: bool) -> None:
    # Triton makes arguments that are 1 part of the code.
    sizes = ("num_owners", "num_others") if backward else ("num_queries", "num_keys")
    ones = dict.fromkeys((*sizes, "dim"), 1)
    for precision, dtype in (("half", "float16"), ("ieee", "float32")):
        instance = triton_kernels.dense_instance(80, precision, dtype, 1, backward=backward, **ones)
        assert triton_kernels.compile_instance(instance, 80)["spill_bytes"] == 0


@compiled
def test_the_record_is_of_these_kernels(
    figures: budgets.Table, triton_figures: budgets.Table
) -> None:
    recorded = json.loads(budgets.FILE.read_text())["kernels"]
    assert {name: set(rows) for name, rows in recorded.items()} == {
        name: set(rows) for name, rows in (figures | triton_figures).items()
    }


ROW = {"registers": 78, "blocks": 3, "stores_128": 1}


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"at_most": {"registers": 72}}, "registers is 78, the limit is at most 72"),
        ({"at_most": {"registers": {"sm_90": 77}}}, "registers is 78, the limit is at most 77"),
        ({"at_least": {"blocks": 4}}, "blocks is 3, the limit is at least 4"),
        ({"at_least": {"stores_128": 2}}, "stores_128 is 1, the limit is at least 2"),
        ({"at_most": {"registers": 78}, "at_least": {"blocks": 3}}, None),
        ({"at_most": {"registers": {"sm_80": 10}}}, None),
    ],
)
def test_a_limit_too_tight_is_named(limits: dict, message: str | None) -> None:
    table = {"crop_resize_kernel<float>": {"sm_90": ROW}}
    lines = budgets.violations({"crop_resize_kernel": limits}, table)
    assert lines == ([f"crop_resize_kernel<float> on sm_90: {message}"] if message else [])


def test_kernels_and_limits_belong_together() -> None:
    assert budgets.violations({"gone_kernel": {}}, {"new_kernel": {}}) == [
        "new_kernel: no limits for new_kernel in budgets.json",
        "gone_kernel: limits for a kernel that is not there",
    ]


@compiled
def test_the_command_fails_on_a_limit_too_tight(
    figures: budgets.Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def tighten(registers: int) -> None:
        limits = {name.split("<")[0]: {"at_most": {"registers": registers}} for name in figures}
        content = {"toolkit": "", "limits": limits, "kernels": {}}
        (tmp_path / "budgets.json").write_text(json.dumps(content))

    monkeypatch.setattr(budgets, "FILE", tmp_path / "budgets.json")
    monkeypatch.setattr(compiler, "measure", lambda: figures)
    monkeypatch.setattr(triton_kernels, "measure", dict)
    tighten(255)
    assert budgets.main([]) == 0
    tighten(10)
    assert budgets.main(["--write"]) == 1
    used = figures["overlap_rate_kernel"]["sm_90"]["registers"]
    expected = f"overlap_rate_kernel on sm_90: registers is {used}, the limit is at most 10"
    assert f"over budget: {expected}\n" in capsys.readouterr().out
    assert json.loads((tmp_path / "budgets.json").read_text())["kernels"] == figures
    assert budgets.main([]) == 1
    assert "Differences" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("threads", "registers", "shared_bytes", "blocks"),
    [
        (256, 85, 0, 2),  # granted as 88
        (256, 80, 0, 3),
        (256, 32, 0, 8),
        (32, 16, 0, 32),
        (33, 16, 0, 32),
        (1024, 32, 0, 2),
        (256, 32, 75 * 1024, 3),  # 228 KiB are 3 times 75 KiB and 1 KiB of the system's
        (256, 32, 75 * 1024 + 1, 2),
    ],
)
def test_occupancy(threads: int, registers: int, shared_bytes: int, blocks: int) -> None:
    limits = compiler.ARCHITECTURES["sm_90"]
    assert limits.blocks_of(threads, registers, shared_bytes) == blocks


def test_instructions_are_counted_by_kind() -> None:
    code = """
        /*0000*/                   LDG.E R12, desc[UR20][R14.64] ;
        /*0010*/              @!P2 STG.E.EF.128 desc[UR20][R56.64+0x1], R17 ;
        /*0020*/               @P4 LDG.E.U8.CONSTANT R9, desc[UR20][R62.64] ;
        /*0030*/                   LD.E.U16 R9, desc[UR20][R62.64] ;
        /*0040*/                   STL.64 [R1], R2 ;
        /*0050*/              @UP0 FFMA R1, R2, R3, R4 ;
    """
    counts = {name: n for name, n in compiler.count_instructions(code).items() if n}
    assert counts == {
        "instructions": 6,
        "loads_32": 1,
        "loads_8": 1,
        "stores_128": 1,
        "generic": 1,
        "local": 1,
        "ffma": 1,
    }


# ---- Traffic


@emulated
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_traffic_of_a_small_job_is_within_its_targets(dtype: str) -> None:
    case = traffic.Case(dtype, videos=1, frames=1)
    figures = traffic.measure(case, *traffic.emulator())
    assert traffic.misses(case.name, figures) == []
    assert figures["written"] == 1.0  # less would be a clip with holes
    assert figures["dram"] >= 1.0  # with antialias every pixel of the crop takes part


def test_a_missed_target_is_named() -> None:
    figures = dict.fromkeys(traffic.FIGURES, 1.0)
    assert traffic.misses("case", figures) == []
    assert traffic.misses("case", {**figures, "read": 1.2}) == ["case: read is 1.200, target 1.15"]

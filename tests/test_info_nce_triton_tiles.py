"""What the Triton kernels of info_nce are launched with, tuned or not, and that CUDA tensors reach them."""

import subprocess
import sys
from pathlib import Path

from triton_cases import compiled, needs_triton

from stor_ops._triton import configs


@compiled
def test_tiles_cover_every_width():
    for architecture in (0, *configs.TABLE):
        for precision in ("half", "tf32", "ieee"):
            for dim in range(1, configs.MAX_DIM + 1):
                forward = configs.tiles(architecture, precision, dim, backward=False)
                backward = configs.tiles(architecture, precision, dim, backward=True)
                for chosen in (forward, backward):
                    sizes = (chosen.rows, chosen.columns, chosen.depth)
                    assert all(size >= 16 and size & (size - 1) == 0 for size in sizes)
                    assert not chosen.whole or dim <= chosen.depth < 2 * max(dim, 16)
                assert forward.width == 0 and backward.width & (backward.width - 1) == 0
                assert backward.width < 2 * max(dim, 16)
                assert not backward.whole or backward.width == backward.depth


@compiled
def test_tuning_is_asked_for(monkeypatch):
    monkeypatch.setattr(configs, "_tuned", {})
    static = configs.tiles(90, "half", 128, backward=True)
    tried = []

    def milliseconds(candidate, launch):
        launch(candidate)
        return float(candidate.columns)

    monkeypatch.setattr(configs, "_milliseconds", milliseconds)
    monkeypatch.delenv("STOR_OPS_AUTOTUNE", raising=False)
    assert configs.choose(("case",), static, tried.append) == static
    assert tried == []
    monkeypatch.setenv("STOR_OPS_AUTOTUNE", "1")
    for _ in range(2):
        chosen = configs.choose(("case",), static, tried.append)
        assert chosen == static._replace(columns=static.columns // 2)
    assert tried[0] == static and len(tried) == 5  # once per case


@compiled
@needs_triton
def test_cuda_has_these_kernels():
    code = """
import sys, torch
registered, register = {}, torch.library.register_kernel
def record(op, device_types, func, **options):
    registered[op, device_types] = f"{func.__module__}.{func.__name__}"
    return register(op, device_types, func, **options)
torch.library.register_kernel = record
import stor_ops
has = torch._C._dispatch_has_kernel_for_dispatch_key
for op in ("stor_ops::info_nce", "stor_ops::info_nce_backward"):
    print(registered.get((op, "cuda")), has(op, "CUDA"))
assert "triton" not in sys.modules
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        "stor_ops._triton.info_nce.forward True",
        "stor_ops._triton.info_nce.backward True",
    ]

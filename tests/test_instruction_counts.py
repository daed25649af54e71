"""The CPU kernels execute no more instructions than they are on record with."""

import json
import shutil

import pytest

from benchmarks.instructions import __main__ as instructions

RECORDED = json.loads(instructions.FILE.read_text())


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_kernels_keep_their_instruction_counts():
    counts = instructions.measure()
    assert instructions.violations(RECORDED, counts) == []


def test_every_vectorised_kernel_is_built_into_the_jobs():
    kernels = {
        path
        for path in (instructions.ROOT / "csrc").rglob("*.cpp")
        if "for_each_isa.h" in path.read_text()
    }
    assert kernels
    assert kernels <= set(instructions.SOURCES)


@pytest.mark.parametrize("job", ["info_nce forward baseline", "crop_resize float32 baseline"])
def test_what_is_a_violation(job):
    slower = {**RECORDED, job: round(RECORDED[job] * (1.01 + instructions.TOLERANCE))}
    assert len(instructions.violations(RECORDED, slower)) == 1
    assert job in instructions.violations(RECORDED, slower)[0]
    faster = {**RECORDED, job: RECORDED[job] // 2}
    assert instructions.violations(RECORDED, faster) == []
    assert instructions.violations(RECORDED, {**RECORDED, "new job": 1}) == [
        "new job: not recorded"
    ]
    without = {name: count for name, count in RECORDED.items() if name != job}
    assert "there is no such job" in instructions.violations(RECORDED, without)[0]
    no_avx2 = {name: count for name, count in RECORDED.items() if not name.endswith("avx2")}
    assert instructions.violations(RECORDED, no_avx2) == []

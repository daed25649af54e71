"""The benchmark suite runs, checks before it times, and tells noise from change."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import (
    bench_crop_resize,
    bench_info_nce,
    compare,
    crop_job,
    report,
    ring,
    suite,
    worker,
)
from benchmarks.info_nce_oracle import loss_and_some_gradient
from benchmarks.memory import PeakGrowth
from stor_ops import reference

ROOT = Path(__file__).resolve().parents[1]
SUITES = [suite.load_suite(name) for name in suite.SUITES]


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Results of a quick run of both suites with some of the contenders, and what it printed."""
    folder = tmp_path_factory.mktemp("results")
    only = ["stor_ops", "matmul", "F.interpolate uint8", "DALI"]
    command = [sys.executable, "-m", "benchmarks.run", "--quick", "--threads", "1"]
    command += ["--cases", "N=|quick$", "--out", str(folder), *(f"--only={name}" for name in only)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder, run.stdout


@pytest.mark.parametrize("name", suite.SUITES)
def test_a_quick_run_writes_every_file(quick_run: tuple[Path, str], name: str) -> None:
    folder, output = quick_run
    result = json.loads((folder / f"{name}.json").read_text())
    timed = [record for record in result["records"] if record["status"] == "ok"]
    assert {"stor_ops"} < {record["contender"] for record in timed}
    for record in timed:
        assert len(record["seconds"]) == 2, record
        assert 0 < record["min_s"] <= record["q1_s"] <= record["median_s"] <= record["q3_s"]
        assert record["peak_growth_mib"] is not None
    assert not [record for record in result["records"] if record["status"] in ("failed", "wrong")]
    for record in result["records"]:
        if record["status"] == "not installed":
            assert record["why"].startswith("needs ")

    rows = list(csv.DictReader((folder / f"{name}.csv").open()))
    assert [row["contender"] for row in rows] == [r["contender"] for r in result["records"]]
    table = (folder / f"{name}.md").read_text()
    assert all(f"| {record['contender']} |" in table for record in result["records"])
    assert (folder / f"{name}.png").stat().st_size > 10_000
    assert str(folder / f"{name}.png") in output


def test_the_host_is_not_named(quick_run: tuple[Path, str]) -> None:
    host = os.uname().nodename
    for path in quick_run[0].glob("*.[jcm]*"):
        assert host not in path.read_text()


@pytest.mark.parametrize("bench", SUITES, ids=lambda bench: bench.name)
def test_names_are_consistent(bench: suite.Suite) -> None:
    cases = [case for quick in (True, False) for case in bench.cases(quick)]
    assert len({case.name for case in cases}) == len(cases)
    for case in cases:
        for name in (*case.contenders, *case.left_out):
            assert bench.contender(name).name == name
        assert bench.work(case, bench.ours)
    assert bench.contender(bench.ours).allowed is not None
    names = {name for case in cases for name in case.contenders}
    assert names == {contender.name for contender in bench.contenders}


@pytest.mark.parametrize("bench", SUITES, ids=lambda bench: bench.name)
def test_every_contender_that_is_installed_is_right(bench: suite.Suite) -> None:
    """In this process and at tiny size, the compiled ones aside; the run itself checks at full size."""
    for case in map(bench.tiny, bench.cases(True)):
        inputs = bench.inputs(case)
        oracle = bench.oracle(case, inputs)
        for contender in map(bench.contender, case.contenders):
            if contender.missing() or contender.allowed is None or contender.compiles:
                continue
            for way, work in contender.build(case, inputs).items():
                found = bench.differences(case, work(), oracle)
                for measure, allowed in contender.allowed.items():
                    assert found[measure] <= allowed, (contender.name, way, found)


@pytest.mark.parametrize("wrong", [1.001, float("nan")])
def test_what_is_wrong_is_not_timed(wrong: float) -> None:
    bench = bench_info_nce.SUITE
    case = bench.tiny(bench.cases(True)[0])
    oracle = bench.oracle(case, bench.inputs(case))
    contender = bench.contender("stor_ops")
    outputs = (oracle[0].float(), oracle[1].float())
    assert worker.check_outputs(bench, case, contender, outputs, oracle)["loss"] < 1e-6
    with pytest.raises(worker.WrongResultError, match="allowed"):
        worker.check_outputs(bench, case, contender, (outputs[0], outputs[1] * wrong), oracle)


def test_one_that_fails_does_not_stop_the_others() -> None:
    bench, case = bench_info_nce.SUITE, bench_info_nce.cases(True)[0]
    nobody = suite.Contender("nobody", lambda case, inputs: {}, None)
    absent = suite.Contender("absent", lambda case, inputs: {}, None, modules=("no_such.package",))
    cpus = sorted(os.sched_getaffinity(0))[:1]
    contenders = [nobody, absent, bench.contender("matmul floor")]
    records = ring.run_case(bench, case, contenders, cpus, quick=True)
    assert [record["status"] for record in records] == ["failed", "not installed", "ok"]
    assert "no_such.package" in records[1]["why"]
    assert records[2]["threads"] == 1


def test_the_oracle_of_large_n_is_the_reference() -> None:
    bench, case = bench_info_nce.SUITE, bench_info_nce.cases(True)[0]
    inputs = bench.inputs(case)
    loss, gradient = bench.oracle(case, inputs)
    rows = torch.arange(0, len(inputs.ids), 3)
    found = loss_and_some_gradient(inputs.features.double(), bench_info_nce.TEMPERATURE, rows)
    torch.testing.assert_close(found, (loss, gradient[rows]))


@pytest.mark.parametrize("antialias", [True, False])
def test_the_crops_oracle_is_the_reference(antialias: bool) -> None:
    """Frames, boxes and flips as other libraries get them are those of the views."""
    case = bench_crop_resize.SUITE.tiny(bench_crop_resize.cases(True)[0])
    parameters = {**case.parameters, "antialias": antialias, "videos": [(20, 24, 32), (9, 30, 20)]}
    job = crop_job.make_job(replace(case, parameters=parameters))
    expected = reference.crop_resize(
        job.videos, job.views, job.size, mean=crop_job.MEAN, std=crop_job.STD, antialias=antialias
    )
    (found,) = crop_job.oracle(case, job)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_memory_is_measured() -> None:
    torch.zeros(1000)
    growth = PeakGrowth()
    torch.ones(30 * 2**20, dtype=torch.uint8)  # freed at once; the peak remains
    assert 29 < (growth.mib() or 0) < 36


def record_of(seconds: list[float], mib: float = 10.0, **more: Any) -> dict[str, Any]:
    facts = {"case": "one", "contender": "stor_ops", "status": "ok", "peak_growth_mib": mib}
    return {**facts, "seconds": seconds, **ring.spread(seconds), **more}


@pytest.mark.parametrize(
    ("seconds", "change"),
    [
        ([1.0, 1.1, 1.2], 0),
        ([1.02, 1.03, 1.04], 0),  # apart from the old ones, but by less than the threshold
        ([1.5, 1.6, 1.7], 1),
        ([0.8, 1.6, 2.4], 0),  # wide
        ([1.0, 1.3, 1.3, 1.3], 0),  # few: the whole ranges must lie apart
        ([1.0, *[1.3] * 9], 1),
        ([0.5, 0.6, 0.7], -1),
    ],
)
def test_change_is_told_from_noise(seconds: list[float], change: int) -> None:
    old = record_of([0.99, 1.0, 1.01] * (1 + len(seconds) // 4))
    assert compare.changed_time(old, record_of(seconds), 0.05) == change


def test_compare_marks_what_changed(
    quick_run: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = quick_run[0] / "info_nce.json"
    assert compare.main([str(path), str(path)]) == 0
    assert not {"SLOWER", "LARGER"} & set(capsys.readouterr().out.split())
    result = json.loads(path.read_text())
    ours = next(r for r in result["records"] if r["contender"] == "stor_ops")
    ours |= ring.spread([10 * ours["max_s"], 11 * ours["max_s"]])
    ours["peak_growth_mib"] += 50
    other = tmp_path / "other.json"
    other.write_text(json.dumps(result))
    assert compare.main([str(path), str(other)]) == 1
    assert {"SLOWER", "LARGER"} < set(capsys.readouterr().out.split())


def test_targets_pass_miss_or_are_not_measured() -> None:
    case = "N=8192 D=128"
    records = [
        record_of([1.0, 1.0], case=case),
        record_of([7.0, 7.0], case=case, contender="torch"),
        record_of([1.9, 1.9], case=case, contender="torch.compile"),
        record_of([0.5, 0.5], case=case, contender="matmul floor"),
    ]
    found = bench_info_nce.targets(suite.Lookup(records))
    passed = {target.text: target.passed for target in found}
    assert passed[f"{case}: at least 6 x as fast as torch"]
    assert passed[f"{case}: at least 2 x as fast as torch.compile"] is False
    assert passed[f"{case}: at most 1.5 x the matmul floor"] is False
    assert passed[f"{case}: peak growth below 48 MiB"]
    assert passed["N=65536 D=128: peak growth at most 200 MiB"] is None
    lines = "\n".join(report._targets(report.verdicts(found)))
    assert "**miss**" in lines
    assert "not measured" in lines

"""Measurements. ``python -m benchmarks.run`` times every op against what else does its job.

A suite is `bench_<op>.py`: cases, contenders and targets, in the words of `suite.py`. `run.py` has
`ring.py` time one case after another, each contender in a process of its own (`worker.py`), checked
against `stor_ops.reference` first (`oracle.py`); `report.py` and `plots.py` write what came out,
`compare.py` holds two results side by side. To add a contender, add a `Contender` to its suite and its
name to the cases.

`data_path.py` times the way from video files to clips, `instructions/` counts what the CPU kernels
execute, which repeats where times do not, `kernels/` what the GPU kernels would; `gpu_check.py` is for a
machine with a GPU.
"""

"""Instruction counts of the CPU kernels on small fixed jobs: they repeat where times do not."""

"""``python -m benchmarks.oracle SUITE CASE FILE``: writes the right outputs of a case, in float64.

In a process of its own, so that what it needs is neither in the parent nor in a contender.
"""

from __future__ import annotations

import sys

import torch

from .suite import load_suite


def main(suite_name: str, case_name: str, path: str) -> None:
    """Compute and save."""
    suite = load_suite(suite_name)
    case = suite.case(case_name)
    torch.save(list(suite.oracle(case, suite.inputs(case))), path)


if __name__ == "__main__":
    main(*sys.argv[1:])

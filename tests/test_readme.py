"""The README's examples run as they stand."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def test_examples_run_in_order() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["first"].shape == (4, 3, 16, 112, 112)
    assert names["clips"].shape == (2, 3, 8, 64, 64)
    assert names["everything"].joint.shape == (4, 4)
    assert names["loss"] > 0
    assert names["features"].grad.any()
    assert names["index"].shape == (8, 1)
    # 1000 random keys make it harder to tell a view from all others.
    assert names["queued"] > names["loss"] + 1
    assert names["contrast"].log_temperature.requires_grad


def test_files_that_it_links_exist() -> None:
    for document in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / document).read_text()):
            assert (ROOT / target).exists(), f"{document}: {target}"

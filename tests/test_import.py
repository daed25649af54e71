"""What a user has after installing: an import that never fails, and answers where something lacks."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import stor_ops

PACKAGE = Path(stor_ops.__file__).parent
LIBRARY = PACKAGE / "_cpu.so"
OPS = (
    *("sample_view_pairs", "overlap_rate", "pairwise_overlap_rate"),
    *("crop_resize", "crop_resize_pair", "info_nce"),
)


def python(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run python with ``folder`` as the place that stor_ops is imported from."""
    paths = [str(folder or PACKAGE.parent)]
    code = f"import sys; sys.path[:0] = {paths!r}; sys.argv = ['-']\n"
    return subprocess.run(
        [sys.executable, "-c", code + "\n".join(arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
    )


OPTIONAL = ("triton", "decord", "matplotlib", "av", "torchvision", "numpy")
# As if they were not installed: nothing on sys.path has such a name.
BLOCK = f"""
from importlib.machinery import PathFinder
class Hide(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in {OPTIONAL!r}
        return None if hidden else PathFinder.find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Hide
"""
USE = """
import torch, stor_ops
one = torch.tensor([40])
pairs = stor_ops.sample_view_pairs(one, one, one, one)
video = torch.zeros(1, 40, 40, 40, 3, dtype=torch.uint8)
stor_ops.crop_resize_pair(video, pairs.first, pairs.second, (4, 8, 8))
stor_ops.overlap_positives(pairs.first, clip_frames=4)
x = torch.randn(4, 8, requires_grad=True)
stor_ops.multi_positive_info_nce(x, query_id=torch.tensor([0, 0, 1, 1])).backward()
print("used", sorted(set(sys.modules) & {"triton", "decord", "matplotlib", "av", "torchvision"}))
"""


def test_works_without_any_optional_package():
    run = python(BLOCK, USE)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "used []"


@pytest.mark.parametrize("name", OPTIONAL)
def test_the_block_blocks(name):
    assert f"No module named '{name}'" in python(BLOCK, f"import {name}").stderr


def test_import_loads_no_heavy_package():
    names = {"triton", "decord", "matplotlib", "av", "torchvision"}
    run = python("import stor_ops", f"print('loaded', sorted(set(sys.modules) & {names!r}))")
    assert run.stdout.strip() == "loaded []", run.stderr


CALLS = """
import torch, stor_ops
from stor_ops import *
one = torch.tensor([40])
views = Views.from_boxes(torch.tensor([[0.0, 0, 4, 4]]))
video = torch.zeros(1, 8, 8, 8, 3, dtype=torch.uint8)
x = torch.randn(2, 4)
calls = {
    "sample_view_pairs": lambda: sample_view_pairs(one, one, one, one),
    "overlap_rate": lambda: overlap_rate(views, views, clip_frames=4),
    "pairwise_overlap_rate": lambda: pairwise_overlap_rate(views, views, clip_frames=4),
    "overlap_positives": lambda: overlap_positives(views, clip_frames=4),
    "crop_resize": lambda: crop_resize(video, views, (2, 4, 4)),
    "crop_resize_pair": lambda: crop_resize_pair(video, views, views, (2, 4, 4)),
    "multi_positive_info_nce": lambda: multi_positive_info_nce(x, query_id=torch.tensor([0, 0])),
}
for name, call in calls.items():
    try:
        call()
    except Exception as error:
        print(name, type(error).__name__, error)
    else:
        print(name, "ran")
"""


def copy_of_the_package(folder: Path, library: bytes | None) -> Path:
    shutil.copytree(
        PACKAGE, folder / "stor_ops", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    if library is not None:
        (folder / "stor_ops" / LIBRARY.name).write_bytes(library)
    return folder


# The field e_machine of the ELF header says what processor the code is for.
OTHER_MACHINE = LIBRARY.read_bytes()[:18] + b"\xf7\x00" + LIBRARY.read_bytes()[20:]
LOST_SYMBOL = 'extern "C" int lost_symbol(); int use() { return lost_symbol(); }'
BROKEN = {
    "missing": (None, r"_cpu\.so is not in \S+: the package was not built here"),
    "empty": (b"", r"_cpu\.so does not load under torch \S+: .*file too short"),
    "text": (
        b"not a library at all\n" * 500,
        r"_cpu\.so does not load under torch \S+: .*invalid ELF header",
    ),
    # The loader itself would die of a bus error here.
    "cut short": (LIBRARY.read_bytes()[:50_000], r"_cpu\.so in \S+ is cut short"),
    "other machine": (
        OTHER_MACHINE,
        r"_cpu\.so does not load under torch \S+: .*cannot open shared object file",
    ),
    "other torch": (
        None,
        r"_cpu\.so does not load under torch \S+: .*undefined symbol: lost_symbol",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_without_a_usable_binary(case, tmp_path):
    library, reason = BROKEN[case]
    folder = copy_of_the_package(tmp_path, library)
    if case == "other torch":
        output = str(folder / "stor_ops" / LIBRARY.name)
        command = ["c++", "-x", "c++", "-shared", "-fPIC", "-o", output, "-"]
        subprocess.run(command, input=LOST_SYMBOL, text=True, check=True)
    info = "import runpy; runpy.run_module('stor_ops.info', run_name='__main__')"
    run = python(CALLS, "print(stor_ops.__file__)", info, folder=folder)
    assert run.returncode == 0, run.stderr
    *lines, origin = run.stdout[: run.stdout.index("\nstor_ops ")].splitlines()
    assert origin == str(folder / "stor_ops" / "__init__.py")
    assert len(lines) == 7
    for line in lines:
        name = line.split()[0]
        assert re.search(rf"^\w+ RuntimeError \w+: .*{reason}", line), line
        assert line.startswith(f"{name} RuntimeError {name}: "), line
        assert "pip install" in line
        assert "python -m stor_ops.info" in line

    assert re.search(rf"^cpu library  {reason}", run.stdout, re.MULTILINE), run.stdout
    assert re.search(r"^remedy .*pip install", run.stdout, re.MULTILINE)
    for op in OPS:
        assert re.search(rf"^  {op} +none$", run.stdout, re.MULTILINE), op


def test_reference_needs_no_binary(tmp_path):
    folder = copy_of_the_package(tmp_path, None)
    run = python(
        "import torch, stor_ops",
        "one = torch.tensor([40])",
        "pairs = stor_ops.reference.sample_view_pairs(one, one, one, one)",
        "print(len(pairs), stor_ops.reference.overlap_rate(pairs.first, pairs.second, clip_frames=4))",
        folder=folder,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("1 OverlapRate")


def test_info_of_the_intact_package():
    run = subprocess.run(
        [sys.executable, "-m", "stor_ops.info"], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert re.search(r"^cpu library  _cpu\.so loaded$", run.stdout, re.MULTILINE)
    assert "remedy" not in run.stdout
    for op in OPS:
        assert re.search(
            rf"^  {op} +\S*(C\+\+ on the CPU|torch, any device)", run.stdout, re.MULTILINE
        ), op
    for name in ("triton", "torchvision", "decord", "av", "matplotlib"):
        assert re.search(rf"^  {name} ", run.stdout, re.MULTILINE), name


def tool(*command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


LIBRARIES = sorted(PACKAGE.glob("_*.so"))  # the CUDA library too, where it was built


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_binary_is_bound_to_no_python(library):
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", tool("readelf", "-d", str(library)))
    assert any(name.startswith("libtorch_cpu") or name.startswith("libtorch.") for name in needed)
    assert not [name for name in needed if "python" in name]
    symbols = tool("nm", "-D", str(library))
    assert not re.findall(r"\bPyInit\w*", symbols)
    assert not re.findall(r" U (Py\w+|_Py\w+)", symbols)


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_binary_uses_only_the_stable_abi(library):
    undefined = tool("nm", "-D", "-C", "--undefined-only", str(library))
    unstable = [line for line in undefined.splitlines() if re.search(r"\b(at|c10|torch)::", line)]
    assert not unstable

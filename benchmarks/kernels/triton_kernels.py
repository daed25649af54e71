"""What Triton made of its kernels: compiles them for each architecture, needs no GPU.

Each set of tiles in stor_ops/_triton/configs.py is compiled in the variant that has most to hold (queries
against themselves, positives by id, inside the logarithm) and for the gradient of keys, which ptxas
plans differently. <bfloat16, 1024> is the kernel for rows of up to 1024 components, however many fewer:
their number is an argument. The figures are those of the CUDA kernels, and

tensor             tensor-core instructions (HMMA on sm_80, HGMMA on sm_90, UTC*MMA on sm_100)

_ieee marks full float32 products, which have no tensor cores. sm_86, 89 and 120 run sm_80's tiles in
99 KiB of shared memory, to which the limit of sm_80 is set.
"""

# mypy: disable-error-code="import-untyped,import-not-found"

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from stor_ops._triton import configs
from stor_ops._triton.configs import Precision, Tiles

from . import compiler
from .compiler import Figures

DTYPES = {"float16": "*fp16", "bfloat16": "*bf16", "float32": "*fp32"}
MATRICES = ("query", "key", "owner", "other")
INTEGERS = ("query_id", "key_id", "owner_id", "other_id", "index", "order", "offsets")
TENSOR_CORES = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+.*?\b(?:HMMA|HGMMA|UTC\w*MMA)", re.MULTILINE)


class Instance(NamedTuple):
    """One kernel as one launch would compile it."""

    name: str
    kernel: str
    dtype: str
    constants: dict[str, Any]
    warps: int
    stages: int = 3


def why_not() -> str | None:
    """What this machine lacks, if anything."""
    return "there is no triton" if find_spec("triton") is None else compiler.why_not()


def version() -> str:
    """Version of Triton, for other versions give other figures."""
    import triton

    return str(triton.__version__)


def instances(architecture: int) -> Iterator[Instance]:
    """Yield the kernels that an architecture's table asks for: one for each rule, and rows of 128."""
    dtypes: dict[Precision, str] = {"half": "bfloat16", "tf32": "float32", "ieee": "float32"}
    for precision, dtype in dtypes.items():
        for backward in (False, True):
            rules = configs.TABLE[architecture][precision][backward]
            for dim in sorted({128, *(rule.dim for rule in rules)}):
                case = (architecture, precision, dtype, dim)
                yield dense_instance(*case, backward=backward)
                if backward:
                    yield dense_instance(*case, "key", backward=True, OF_OWNER=False)
                if (dim, dtype) == (128, "bfloat16"):
                    yield dense_instance(architecture, precision, "float16", dim, backward=backward)
    flags = {"AGAINST_ITSELF": True, "HAS_WEIGHT": True, "INSIDE": True, "BLOCK_D": 1024}
    yield Instance("positive_kernel<1024>", "sparse.positive_kernel", "float32", flags, 4)
    yield Instance("entry_kernel<1024>", "sparse.entry_kernel", "float32", flags, 4)
    flags = {"ADD": True, "BLOCK_E": 2, "BLOCK_D": 1024}
    yield Instance("segment_kernel<1024>", "sparse.segment_kernel", "float32", flags, 4)


def dense_instance(
    architecture: int,
    precision: Precision,
    dtype: str,
    dim: int,
    role: str = "",
    /,
    *,
    backward: bool,
    **flags: Any,
) -> Instance:
    """Return a dense kernel of queries against themselves, with ``flags`` that make it another's."""
    chosen = configs.tiles(architecture, precision, dim, backward=backward)
    kernel = "gradient_kernel" if backward else "statistics_kernel"
    family = f"{kernel}_ieee" if precision == "ieee" else kernel
    constants = {"HAS_IDS": True, "INSIDE": True, **_shape(chosen)}
    constants["PRECISION"] = "ieee" if precision == "ieee" else "tf32"
    if backward:
        constants |= {"OF_OWNER": True, "OF_OTHER": True}
    else:
        constants |= {"AGAINST_ITSELF": True}
        del constants["BLOCK_OUT"]
    constants |= flags
    name = f"{family}<{dtype}, {dim}{role and ', '}{role}>"
    return Instance(name, f"dense.{kernel}", dtype, constants, configs.WARPS, chosen.stages)


def _shape(chosen: Tiles) -> dict[str, Any]:
    return {
        "WHOLE": chosen.whole,
        "BLOCK_M": chosen.rows,
        "BLOCK_N": chosen.columns,
        "BLOCK_D": chosen.depth,
        "BLOCK_OUT": chosen.width,
    }


def compile_instance(instance: Instance, architecture: int) -> Figures:
    """Compile one kernel and read ptxas' report, the code and the occupancy."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from stor_ops._triton import dense, sparse

    module, _, name = instance.kernel.partition(".")
    kernel = getattr({"dense": dense, "sparse": sparse}[module], name)
    signature = {
        argument: _type(argument, name, instance.dtype, instance.constants)
        for argument in kernel.arg_names
    }
    # What a launch would find: allocations are aligned, and 16 divides most numbers of components.
    aligned = [
        position
        for position, argument in enumerate(kernel.arg_names)
        if signature[argument].startswith("*") or (argument, signature[argument]) == ("dim", "i32")
    ]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={
            (kernel.arg_names.index(argument),): value
            for argument, value in instance.constants.items()
        },
        attrs={(position,): [["tt.divisibility", 16]] for position in aligned},
    )
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", architecture, compiler.WARP),
        options={"num_warps": instance.warps, "num_stages": instance.stages},
    )
    report, code = _assemble(compiled.asm["ptx"], architecture)
    threads = instance.warps * compiler.WARP
    registers, shared = _number(r"Used (\d+) reg", report), int(compiled.metadata.shared)
    limits = compiler.ARCHITECTURES[f"sm_{architecture}"]
    blocks = limits.blocks_of(threads, registers, shared)
    return {
        "registers": registers,
        "spill_bytes": sum(map(int, re.findall(r"(\d+) bytes spill", report))),
        "stack_bytes": _number(r"(\d+) bytes stack", report),
        "static_shared": 0,
        "dynamic_shared": shared,
        "blocks": blocks,
        "threads": blocks * threads,
        **compiler.count_instructions(code),
        "tensor": len(TENSOR_CORES.findall(code)),
    }


def _type(argument: str, kernel: str, dtype: str, constants: dict[str, Any]) -> str:
    """Triton's name for the type of a kernel's argument."""
    if argument in constants:
        return "constexpr"
    if argument in MATRICES or (argument, kernel) == ("gradient", "gradient_kernel"):
        return DTYPES[dtype]
    if argument in INTEGERS:
        return "*i64"
    scalar = argument == "dim" or argument.startswith("num_") or argument.endswith("_per_split")
    return "i32" if scalar else "*fp32"


def _assemble(ptx: str, architecture: int) -> tuple[str, str]:
    """Report and disassembly of what Triton's own ptxas makes of PTX: it does not keep the report."""
    target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)
    assert target is not None
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(ptx)
        from triton.backends.nvidia.compiler import get_ptxas

        command = [get_ptxas(architecture).path, "-v", f"--gpu-name={target[1]}"]
        report = _run([*command, str(source), "-o", str(cubin)])
        return report, _run([str(compiler.find_disassembler()), "-c", str(cubin)])


def measure() -> dict[str, dict[str, Figures]]:
    """Figures of every kernel on every architecture."""
    table: dict[str, dict[str, Figures]] = {}
    with ThreadPoolExecutor(2) as pool:
        for architecture in (80, 90, 100):
            chosen = list(instances(architecture))
            figures = pool.map(compile_instance, chosen, [architecture] * len(chosen))
            for instance, row in zip(chosen, figures, strict=True):
                table.setdefault(instance.name, {})[f"sm_{architecture}"] = row
    return dict(sorted(table.items()))


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr

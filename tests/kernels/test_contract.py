"""What every kernel function promises: its reference's signature, its place in the lists, an import
without a GPU."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from l2c_rt.doctor.kernel_calls import MODULES, OPS, kernel, truth
from l2c_rt.kernels import reference

KERNELS = Path(__file__).parents[2] / "kernels"
SHARED = {
    "__init__",
    "_check",
    "_check_lists",
    "check_timestep",
    "composed_product",
    "relative_change",
    "quantize_rows",
    "scaled_linear",
    "_launch",
    "_launcher",
    "_matrix_math",
    "_patch_math",
    "_row_math",
    "operands",
}


@pytest.mark.parametrize("op", OPS)
def test_a_kernel_has_the_signature_of_its_reference(op: str) -> None:
    ours, theirs = inspect.signature(kernel(op)), inspect.signature(truth(op))
    assert str(ours).replace("tuple[Tensor, Tensor]", "Pair") == str(theirs)


def test_every_file_of_kernels_and_every_public_function_is_covered() -> None:
    assert {path.stem for path in KERNELS.glob("*.py")} == SHARED | set(MODULES)
    for module, ops in MODULES.items():
        tree = ast.parse((KERNELS / f"{module}.py").read_text())
        public = [f.name for f in tree.body if isinstance(f, ast.FunctionDef)]
        public = [name for name in public if not name.startswith("_")]
        assert [n for n in public if not n.endswith("_bytes")] == list(ops)
    written = [name for name, f in vars(reference).items() if inspect.isfunction(f)]
    beside = {
        "composed_product",
        "weight_bits",
        "relative_change",
        "quantize_rows",
        "scaled_linear",
    }
    assert {name for name in written if not name.startswith("_")} == {*OPS, *beside}


def test_the_references_work_where_triton_is_not() -> None:
    source = (
        "import sys; sys.modules['triton'] = None\n"
        "import l2c_rt.kernels.reference, l2c_rt.kernels._launch, l2c_rt.kernels.operands"
    )
    subprocess.run([sys.executable, "-c", source], check=True, timeout=120)


def test_importing_kernels_touches_no_gpu() -> None:
    names = ", ".join(f"l2c_rt.kernels.{module}" for module in MODULES)
    source = f"import torch, {names}; assert not torch.cuda.is_initialized()"
    subprocess.run([sys.executable, "-c", source], check=True, timeout=120)

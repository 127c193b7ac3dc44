"""Products by cuBLASLt against the stand-in for it (csrc/tests/fake_cublas_lt.c).

test_cublas_lt_library.py runs each case in a process of its own, with the stand-in as
libcublasLt.so.12: python tests/support/cublas_lt_cases.py CASE
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np

from l2c_rt._C import LtProduct, cublas_lt_version

WORKSPACE = 1 << 20
ROWS, COLUMNS, INNER = 5, 12, 8
NAMES_OF_FIRST = [66, 11, 1, 0, 4, 5, 6, 7, 0]


def library() -> Any:
    stand_in = ctypes.CDLL("libcublasLt.so.12")
    stand_in.fake_calls.restype = ctypes.c_char_p
    stand_in.fake_asked_workspace.restype = ctypes.c_uint64
    return stand_in


def product(*, bias: bool = True, gelu: bool = False, cut_first: int = 6, device: int = 0) -> Any:
    shape = (ROWS, COLUMNS, INNER)
    return LtProduct(device, shape, (0, 68), bias, gelu, WORKSPACE, most=16, cut_first=cut_first)


def aligned(count: int, alignment: int = 64) -> Any:
    """float32 numbers, normal, at a multiple of the alignment."""
    whole = np.zeros(count + alignment, np.float32)
    start = -whole.ctypes.data % alignment // 4
    part = whole[start : start + count]
    part[:] = np.random.default_rng(count).standard_normal(count)
    return part


def run(lt: Any, index: int, bias: Any | None, offset: int = 0) -> tuple[Any, Any]:
    """y of a call, and x weight^T + bias."""
    x, weight = aligned(ROWS * INNER), aligned(COLUMNS * INNER)
    y, room = aligned(ROWS * COLUMNS), aligned(WORKSPACE // 4, 256)
    place = 0 if bias is None else bias.ctypes.data
    lt.run(index, x.ctypes.data + offset, weight.ctypes.data, place, y.ctypes.data,
           room.ctypes.data, stream=7)  # fmt: skip
    plain = x.reshape(ROWS, INNER) @ weight.reshape(COLUMNS, INNER).T
    return y.reshape(ROWS, COLUMNS), plain if bias is None else plain + bias


def case_the_library_is_asked_once_for_what_fits_and_cuts_are_added() -> None:
    lt = product()
    assert [name[1:4] for name in lt.algorithms] == [
        [11, 1, 0], [12, 1, 0], [15, 1, 0], [11, 2, 2], [15, 2, 2],
    ]  # fmt: skip
    assert lt.algorithms[0][:9] == NAMES_OF_FIRST
    assert len({name[9] for name in lt.algorithms}) == 5
    assert [name[1:4] for name in product(cut_first=0).algorithms] == [
        [11, 1, 0], [12, 1, 0], [15, 1, 0],
    ]  # fmt: skip
    assert [name[1:4] for name in product(cut_first=1).algorithms][3:] == [[11, 2, 2]]
    stand_in = library()
    assert stand_in.fake_asked_workspace() == WORKSPACE
    assert stand_in.fake_asked_reductions() == 2
    assert [stand_in.fake_asked_alignment(matrix) for matrix in range(4)] == [16] * 4


def case_every_algorithm_computes_the_layer() -> None:
    for gelu in (False, True):
        for bias in (aligned(COLUMNS), None):
            lt = product(bias=bias is not None, gelu=gelu)
            for index in range(len(lt.algorithms)):
                y, plain = run(lt, index, bias)
                inner = np.sqrt(2 / np.pi) * (plain + 0.044715 * plain**3)
                expected = 0.5 * plain * (1 + np.tanh(inner)) if gelu else plain
                np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def case_a_call_runs_the_algorithm_of_its_name_on_its_stream() -> None:
    lt = product()
    index = [name[1:3] for name in lt.algorithms].index([15, 2])
    run(lt, index, aligned(COLUMNS))
    last = library().fake_calls().decode().splitlines()[-1]
    assert last == f"cublasLtMatmul {(15 << 16) + (2 << 8) + 7:x}"


def case_two_products_of_a_device_share_a_handle() -> None:
    kept = [product(), product(gelu=True), product(device=1)]
    assert library().fake_handles() == 2
    assert library().fake_alive() == 4 * len(kept)
    kept.clear()
    assert library().fake_alive() == 0


def case_a_failure_names_the_status_and_the_problem_and_leaves_nothing() -> None:
    stand_in = library()
    asked = ("DescCreate", "DescSetAttribute", "PreferenceCreate", "PreferenceSetAttribute",
             "AlgoGetHeuristic")  # fmt: skip
    for call in ("cublasLtCreate", "cublasLtMatrixLayoutCreate",
                 *(f"cublasLtMatmul{name}" for name in asked)):  # fmt: skip
        for nth in (1, 2) if "Set" in call or "Layout" in call else (1,):
            stand_in.fake_fail(call.encode(), nth, 15)
            error = error_of(product)
            assert isinstance(error, RuntimeError)
            assert f"{call}: CUBLAS_STATUS_NOT_SUPPORTED" in str(error)
            assert stand_in.fake_alive() == 0
    lt = product()
    stand_in.fake_fail(b"cublasLtMatmul", 1, 15)
    error = error_of(lambda: run(lt, 0, aligned(COLUMNS)))
    assert "cublasLtMatmul: CUBLAS_STATUS_NOT_SUPPORTED, [5, 12, 8]" in str(error)
    run(lt, 0, aligned(COLUMNS))


def case_what_the_library_would_read_wrongly_is_refused() -> None:
    lt, plain = product(), product(bias=False)
    calls: list[Any] = [
        lambda: run(lt, 9, aligned(COLUMNS)),
        lambda: run(lt, 0, None),
        lambda: run(plain, 0, aligned(COLUMNS)),
        lambda: run(lt, 0, aligned(COLUMNS), offset=4),
        lambda: LtProduct(0, (0, 1, 1), (0, 68), True, False, WORKSPACE, 16, 0),
        lambda: LtProduct(0, (1, 1, 1), (0, 68), True, False, WORKSPACE, 0, 0),
    ]
    before = library().fake_calls()
    for call in calls:
        assert isinstance(error_of(call), ValueError)
    assert library().fake_calls() == before
    assert isinstance(error_of(lambda: LtProduct.__new__(LtProduct).algorithms), RuntimeError)


def case_the_version_is_the_librarys() -> None:
    assert cublas_lt_version() == 130001


def case_a_machine_without_the_library_is_told_the_remedy() -> None:
    for call in (cublas_lt_version, product):
        error = error_of(call)
        assert isinstance(error, RuntimeError)
        assert "install a PyTorch with CUDA" in str(error)


def error_of(call: Any) -> Exception:
    try:
        call()
    except Exception as error:
        return error.with_traceback(None)
    raise AssertionError("nothing was raised")


if __name__ == "__main__":
    name = sys.argv[1]
    globals()[f"case_{name}"]()
    if "without" not in name:
        assert library().fake_misuses() == 0

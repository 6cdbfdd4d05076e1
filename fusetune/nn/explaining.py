"""Which config a call of our functions uses, and why."""

from __future__ import annotations

from fusetune.ops.built_in import default_op
from fusetune.ops.gemm_scale.problem import Dtype, Mode, Precision, make_problem
from fusetune.runtime.configs import explain_problem
from fusetune.store.lookup import Lookup


def explain(
    *,
    M: int,
    N: int,
    K: int,
    dtype: Dtype = "float32",
    precision: Precision | None = None,
    mode: Mode | None = None,
    op: str | None = None,
    target: str | None = None,
) -> Lookup:
    """Which config a call with these sizes uses, and why: `print(explain(M=128, N=512, K=1024))`.

    Sizes are given by name, since their order differs from one library to the next. `target` names a known GPU instead
    of the one here. Raises NoUsableGpuError where there is none and none is named.
    """
    return explain_problem(op or default_op(), make_problem(M, N, K, dtype, precision, mode), target)

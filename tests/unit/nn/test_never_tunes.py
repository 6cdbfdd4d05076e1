"""A process that serves requests never tunes, never times and never loads what does."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

# The traps raise no ImportError, which a library might catch for an optional dependency.
_TRAPS = textwrap.dedent(
    """
    import sys

    FORBIDDEN = ("fusetune.tune", "fusetune.measure", "fusetune.report", "fusetune.cli", "click", "rich")

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if any(name == one or name.startswith(one + ".") for one in FORBIDDEN):
                raise AssertionError(f"trap: {name} was imported")

    sys.meta_path.insert(0, Blocker())

    import triton
    import triton.testing
    from triton.runtime.autotuner import Autotuner

    def trap(*args, **kwargs):
        raise AssertionError("trap: something was tuned or timed")

    for owner, name in ((Autotuner, "__init__"), (Autotuner, "run"), (triton.testing, "do_bench"),
                        (triton.testing, "do_bench_cudagraph")):
        assert hasattr(owner, name), name
        setattr(owner, name, trap)
    """
)

_SERVE = textwrap.dedent(
    """
    import torch

    import fusetune

    y = fusetune.fused_gemm_scale(torch.randn(5, 7), torch.randn(4, 7), torch.randn(4), torch.randn(4))
    assert y.shape == (5, 4)
    vectors = [torch.rand(4) for _ in range(6)]
    for training in (True, False):
        y = fusetune.fused_gemm_scale_batch_norm(torch.randn(5, 7), torch.randn(4, 7), *vectors, training=training)
        assert y.shape == (5, 4)
    model = fusetune.ModelNew(16, 8, (8,))
    model(torch.randn(4, 16)).sum().backward()
    model.eval()(torch.randn(4, 16))
    fusetune.FusedLinearScale(16, 8, 8)(torch.randn(2, 3, 16))
    torch.ops.fusetune.gemm_scale(torch.randn(5, 7), torch.randn(4, 7), None, torch.randn(4))
    torch.ops.fusetune.gemm_scale_bn_train(torch.randn(5, 7), torch.randn(4, 7), *vectors[:4], 1e-5)
    torch.compile(model, fullgraph=True, backend="eager")(torch.randn(4, 16))
    with torch.autocast("cpu", dtype=torch.float16):
        model(torch.randn(4, 16))
    try:
        fusetune.warmup([{"M": 16, "N": 16, "K": 16}])
    except fusetune.errors.NoUsableGpuError:
        assert not torch.cuda.is_available()
    fusetune.load()
    fusetune.reload()
    assert fusetune.explain(M=128, N=512, K=1024, target="rtx4090").explain()
    loaded = [name for name in sys.modules if any(name == one or name.startswith(one + ".") for one in FORBIDDEN)]
    assert not loaded, loaded
    print("served")
    """
)


_OF_TIMING = _TRAPS.replace('(Autotuner, "__init__"), (Autotuner, "run")', '(Autotuner, "_bench")')
"""For a program that has autotuners of its own."""

_INSTALLED = textwrap.dedent(
    """
    import fusetune

    fusetune.install(on_miss={on_miss!r}, children=False)
    from tests.support.programs import served as program

    program.added(4096)
    program.doubled(4096)
    assert [one.launches for one in fusetune.served().kernels] == [1, 1]
    fusetune.uninstall()
    loaded = [name for name in sys.modules if any(name == one or name.startswith(one + ".") for one in FORBIDDEN)]
    assert not loaded, loaded
    print("served")
    """
)


def _run(script: str, folder, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("interpret", ["0", "1"], ids=["by PyTorch", "by the kernel in the interpreter"])
def test_calls_modules_and_explanations_tune_nothing_and_load_no_tuner(tmp_path, interpret):
    done = _run(_TRAPS + _SERVE, tmp_path, TRITON_INTERPRET=interpret)
    assert (done.returncode, done.stdout.strip()) == (0, "served"), done.stderr


def test_autotuned_programs_as_they_are_tune_nothing_and_load_no_tuner(tmp_path):
    script = _OF_TIMING + _INSTALLED.format(on_miss="default")
    done = _run(script, tmp_path, TRITON_INTERPRET="1", PYTHONPATH=str(ROOT))
    assert (done.returncode, done.stdout.strip()) == (0, "served"), done.stderr


def test_an_autotuner_that_is_asked_to_time_is_seen_to(tmp_path):
    script = _OF_TIMING + _INSTALLED.format(on_miss="tune")
    done = _run(script, tmp_path, TRITON_INTERPRET="1", PYTHONPATH=str(ROOT))
    assert "trap: something was tuned or timed" in done.stderr


@pytest.mark.parametrize(
    "slip",
    [
        "import rich",
        "import click.testing",
        "import fusetune.tune.sweep",
        "import fusetune.measure.cuda",
        "triton.testing.do_bench(lambda: None)",
        "Autotuner.run(None)",
    ],
)
def test_the_traps_would_show_a_slip(tmp_path, slip):
    done = _run(_TRAPS + slip, tmp_path)
    assert done.returncode != 0
    assert "AssertionError: trap: " in done.stderr

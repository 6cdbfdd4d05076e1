"""Launches of each kind that may take a tuned config: autotuned, with heuristics, and with a tile of its own."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys

import torch
import triton
import triton.language as tl

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
BENCHED = []
"""The configs that an autotuner has timed."""


def bench(call, quantiles):
    call()
    BENCHED.append(len(BENCHED))
    return [1.0, 1.0, 1.0]


def fitting(configs, named, **_):
    return [one for one in configs if one.kwargs["BLOCK"] <= named["n"]]


CONFIGS = [triton.Config({"BLOCK": size}, num_warps=2) for size in (1024, 256, 128)]
OWN_TIMER = {} if DEVICE == "cuda" else {"do_bench": bench}


@triton.autotune(configs=CONFIGS, key=["n"], prune_configs_by={"early_config_prune": fitting}, **OWN_TIMER)
@triton.heuristics({"EVEN": lambda args: args["n"] % args["BLOCK"] == 0})
@triton.jit
def add(x_ptr, y_ptr, n, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=inside) + 1.0, mask=inside)


@triton.jit
def double(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, 2.0 * tl.load(x_ptr + at, mask=at < n), mask=at < n)


def added(n):
    x = torch.arange(n, dtype=torch.float32, device=DEVICE)
    y = torch.zeros_like(x)
    add[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, y, n)
    assert torch.equal(y, x + 1)


def doubled(n):
    x = torch.arange(n, dtype=torch.float32, device=DEVICE)
    y = torch.zeros_like(x)
    double[(triton.cdiv(n, 512),)](x, y, n, BLOCK=512, num_warps=4)
    assert torch.equal(y, 2 * x)


def main(form, n):
    """Launch here, or in a process that is started, spawned or forked; one that is `killed` is forked."""
    if form == "here":
        added(n)
        doubled(n)
    elif form == "process":
        subprocess.run([sys.executable, __file__, "here", str(n)], check=True)
    else:
        context = multiprocessing.get_context("fork" if form == "killed" else form)
        worker = context.Process(target=killed if form == "killed" else main, args=("here", n))
        worker.start()
        worker.join()
        assert worker.exitcode == (-signal.SIGKILL if form == "killed" else 0)
    print(json.dumps({"form": form, "timed": len(BENCHED)}), flush=True)


def killed(form, n):
    """Launch, and have no time to say so."""
    main(form, n)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    for form in sys.argv[1].split(","):
        main(form, int(sys.argv[2]))

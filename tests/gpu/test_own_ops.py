"""The examples' ops swept on a GPU by the command: right, reported, and as fast as device memory lets them be."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fusetune
from fusetune.core.roofline import roofline
from fusetune.ops.device import local_target
from fusetune.ops.loading import load_spec
from fusetune.store.yaml_files import read_config_file

EXAMPLES = Path(__file__).parents[2] / "examples"
SWEPT = {
    "vector_add": ({"n": 1 << 26}, "standard"),
    "row_softmax": ({"rows": 4096, "columns": 1000}, "standard"),
    "rms_norm": ({"rows": 16384, "columns": 4096}, "standard"),
    "rms_norm_in_place": ({"rows": 16384, "columns": 4096}, "standard"),
    "matmul_leaky_relu": ({"m": 512, "n": 512, "k": 512}, "seed"),
}
"""Sizes, and the space: that of the matmul has 180 candidates, and the seed's four of them say as much here."""
BY_BANDWIDTH = ("vector_add", "rms_norm", "rms_norm_in_place")
NEAR = 1.10
"""At most so many times what the bytes take at the bandwidth of a plain copy."""
TRIES, COPIES, BUFFERS = 15, 8, 4


def place_of(name: str) -> str:
    """Where the spec of an example is."""
    return f"{EXAMPLES / 'rms_norm.py'}:IN_PLACE" if name == "rms_norm_in_place" else f"{EXAMPLES / name}.py:SPEC"


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "FUSETUNE_CONFIGS": str(folder / "configs"),
        "PYTHONPATH": os.pathsep.join([str(Path(fusetune.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    line = [sys.executable, "-m", "fusetune", *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module", params=SWEPT)
def swept(request, tmp_path_factory):
    """One sweep of each op: its name, the folder that it ran in, how it ended, and its entry."""
    sizes, space = SWEPT[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    given = [word for name, value in sizes.items() for word in ("--size", f"{name}={value}")]
    done = command(folder, "sweep", "--op", place_of(request.param), *given, "--space", space)
    assert done.returncode in {0, 3}, done.stderr
    files = list((folder / "configs").glob(f"*/{request.param}.yaml"))
    if done.returncode == 3 and not files:
        pytest.skip(f"the machine is too noisy: {done.stderr.strip().splitlines()[-1]}")
    (file,) = files
    (entry,) = read_config_file(file).entries
    return request.param, folder, done, entry


def copied_bytes_per_us(size_bytes: int) -> float:
    """The bandwidth of torch's copy of tensors that read and write so many bytes together, out of L2."""
    half = size_bytes // 2
    pairs = [(torch.zeros(half, dtype=torch.uint8, device="cuda"), torch.empty(half, dtype=torch.uint8, device="cuda"))]
    pairs += [(torch.zeros_like(pairs[0][0]), torch.empty_like(pairs[0][0])) for _ in range(BUFFERS - 1)]
    times_us = []
    for _ in range(TRIES + 1):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for number in range(COPIES):
            source, target = pairs[number % BUFFERS]
            target.copy_(source)
        end.record()
        end.synchronize()
        times_us.append(start.elapsed_time(end) * 1e3 / COPIES)
    return 2 * half / statistics.median(times_us[1:])


def test_the_entry_is_measured_and_its_verdict_is_the_exit_code(swept):
    name, _, done, entry = swept
    assert entry.problem.to_builtins() == SWEPT[name][0]
    assert entry.evidence == "measured"
    assert entry.verdict in {"keep", "revert", "inconclusive"}
    assert (entry.verdict == "inconclusive") == (done.returncode == 3)
    assert entry.verdict.upper() in done.stdout
    assert entry.time_us is not None
    if entry.verdict == "keep":
        assert entry.gain.low >= 0.02
        assert entry.time_us.config < entry.time_us.baseline
    else:
        assert entry.config.is_conservative


def test_the_config_of_the_entry_is_right(swept):
    name, _, _, entry = swept
    spec = load_spec(place_of(name))
    problem = spec.problem(SWEPT[name][0])
    generator = torch.Generator(device="cuda").manual_seed(1)
    tensors = {operand.name: operand.allocate("cuda") for operand in spec.operands(problem)}
    for operand in spec.operands(problem):
        if operand.role == "output":
            tensors[operand.name].fill_(float("nan"))
        else:
            operand.draw(tensors[operand.name], generator)
    references = spec.reference(problem, {key: tensor.clone() for key, tensor in tensors.items()})
    for launch in spec.launches(problem, entry.config, tensors):
        launch.run()
    for output, reference in references.items():
        error = float((tensors[output].double() - reference).norm() / reference.norm())
        assert error <= spec.tolerance(problem).frobenius, output


def test_the_report_shows_it(swept):
    name, folder, _, entry = swept
    done = command(folder, "report")
    assert done.returncode == 0, done.stderr
    assert name in done.stdout
    assert command(folder, "report", "--run", entry.run).returncode == 0


def test_what_device_memory_bounds_takes_as_long_as_a_copy_of_as_many_bytes(swept):
    name, _, _, entry = swept
    if name not in BY_BANDWIDTH:
        pytest.skip("not bound by device memory at this size")
    spec = load_spec(place_of(name))
    problem = spec.problem(SWEPT[name][0])
    moved = spec.bytes(problem)
    copy_us = moved / copied_bytes_per_us(int(moved))
    target = local_target(0)
    sheet_us = roofline(spec.flops(problem), moved, spec.kind(problem), target).time_us
    taken_us = entry.time_us.config
    print(
        f"\n{name}: {taken_us:.1f} us; a copy of as many bytes {copy_us:.1f} us ({taken_us / copy_us:.3f}), "
        f"the data sheet of {target.name} {sheet_us:.1f} us ({taken_us / sheet_us:.3f})"
    )
    assert taken_us <= NEAR * copy_us

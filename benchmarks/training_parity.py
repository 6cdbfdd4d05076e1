"""Whether a model of ModelNew blocks trains as the same model of PyTorch's own modules does.

`python benchmarks/training_parity.py` needs a GPU (`--device cpu` tries the script, with PyTorch on both sides).

A small MLP is trained for 200 steps from the same weights on the same batches: with PyTorch's modules, with ModelNew,
and for a measure of noise once more with PyTorch's modules and the last bit of each weight changed. Plain, under
torch.compile(fullgraph=True), under autocast, and both. Loss curves agree if ours is no further from PyTorch's than
`NOISES` times what that last bit does; running statistics and the count of batches are compared at the end. Writes
benchmarks/results/training_parity-<gpu>.json; exits 1 where something does not agree.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
from msgspec import to_builtins
from torch import nn

import fusetune
from fusetune.core.text import slugify
from fusetune.runtime.configs import active_source

HERE = Path(__file__).resolve().parent
STEPS, ROWS, WIDTHS = 200, 256, (64, 256, 256, 16)
NOISES = 3.0
LEAST_NOISE = 1e-3
"""Of the loss: below it curves agree whatever the last bit does."""
STATISTICS_RTOL = 2e-2


class Block(nn.Module):
    """Linear, scale and BatchNorm1d by PyTorch, with ModelNew's names."""

    def __init__(self, in_features: int, out_features: int, scale_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.gemm = nn.Linear(in_features, out_features)
        self.scale = nn.Parameter(torch.randn(scale_shape))
        self.bn = nn.BatchNorm1d(out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.gemm(x) * self.scale)


class Outcome(NamedTuple):
    """Losses step by step, and the buffers after the last one."""

    losses: list[float]
    buffers: dict[str, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no GPU here; --device cpu tries the script")
    torch.backends.cuda.matmul.allow_tf32 = True
    rows = {
        f"{'compile' if compiled else 'eager'}{' autocast' if autocast else ''}": compared(
            device, arguments.steps, compiled=compiled, autocast=autocast
        )
        for compiled in (False, True)
        for autocast in (False, True)
    }
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    result = {
        "date": f"{date.today():%Y-%m-%d}",
        "gpu": name,
        "environment": to_builtins(active_source().environment("gemm_scale_bn")),
        "model": f"{' -> '.join(map(str, WIDTHS))}, {ROWS} rows a batch, {arguments.steps} steps of SGD with momentum",
        "ways": rows,
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"training_parity-{slugify(name)}.json"
    if device.type == "cuda":
        path.write_text(json.dumps(result, indent=1) + "\n")
    for way, row in rows.items():
        print(
            f"{way:<18} loss {row['first_loss']:.4f} -> {row['last_loss']:.4f} "
            f"(PyTorch {row['last_loss_pytorch']:.4f}), "
            f"apart {row['apart']:.2e}, noise {row['noise']:.2e}, statistics {row['statistics_apart']:.2e}: "
            f"{'agrees' if row['agrees'] else 'DISAGREES'}"
        )
    if device.type == "cuda":
        print(f"wrote {path}")
    sys.exit(0 if all(row["agrees"] for row in rows.values()) else 1)


def compared(device: torch.device, steps: int, *, compiled: bool, autocast: bool) -> dict[str, Any]:
    """Ours beside PyTorch's, and PyTorch's beside itself with the last bits of its weights changed."""
    options = {"device": device, "steps": steps, "compiled": compiled, "autocast": autocast}
    plain = train(Block, **options)
    nudged = train(Block, nudge=True, **options)
    ours = train(fusetune.ModelNew, **options)
    noise, apart = distance(plain.losses, nudged.losses), distance(plain.losses, ours.losses)
    counts = [name for name in plain.buffers if name.endswith("num_batches_tracked")]
    same_counts = all(torch.equal(plain.buffers[name], ours.buffers[name]) for name in counts)
    statistics = max(
        float((ours.buffers[name] - value).norm() / value.norm())
        for name, value in plain.buffers.items()
        if name not in counts
    )
    noise_of_statistics = max(
        float((nudged.buffers[name] - value).norm() / value.norm())
        for name, value in plain.buffers.items()
        if name not in counts
    )
    agrees = (
        apart <= NOISES * max(noise, LEAST_NOISE)
        and statistics <= max(STATISTICS_RTOL, NOISES * noise_of_statistics)
        and same_counts
    )
    return {
        "agrees": agrees,
        "apart": apart,
        "noise": noise,
        "statistics_apart": statistics,
        "statistics_noise": noise_of_statistics,
        "batches_counted_alike": same_counts,
        "first_loss": plain.losses[0],
        "last_loss": ours.losses[-1],
        "last_loss_pytorch": plain.losses[-1],
        "losses": [round(loss, 6) for loss in ours.losses[:: max(1, steps // 20)]],
        "losses_pytorch": [round(loss, 6) for loss in plain.losses[:: max(1, steps // 20)]],
    }


def distance(ones: list[float], others: list[float]) -> float:
    """Mean distance of two curves, as a share of the first one's mean."""
    return sum(abs(one - other) for one, other in zip(ones, others, strict=True)) / sum(ones)


def train(
    kind: type[Block] | type[fusetune.ModelNew],
    *,
    device: torch.device,
    steps: int,
    compiled: bool,
    autocast: bool,
    nudge: bool = False,
) -> Outcome:
    torch._dynamo.reset()
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for in_features, out_features in itertools.pairwise(WIDTHS[:-1]):
        layers += [kind(in_features, out_features, (out_features,)), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(*WIDTHS[-2:])).to(device)
    teacher = torch.randn(WIDTHS[0], WIDTHS[-1], device=device) / WIDTHS[0] ** 0.5
    if nudge:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + torch.finfo(parameter.dtype).eps)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    called = torch.compile(model, fullgraph=True) if compiled else model
    generator = torch.Generator(device=device).manual_seed(1)
    losses = []
    for _ in range(steps):
        x = torch.randn(ROWS, WIDTHS[0], device=device, generator=generator)
        guard = torch.autocast(device.type, dtype=torch.bfloat16) if autocast else contextlib.nullcontext()
        with guard:
            y = called(x)
        loss = (y.float() - torch.tanh(x @ teacher)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return Outcome(losses, {name: buffer.float() for name, buffer in model.named_buffers()})


if __name__ == "__main__":
    main()

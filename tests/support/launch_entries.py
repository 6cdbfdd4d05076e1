"""Entries of somebody's kernel as `fusetune tune` writes them, for look-ups on a GPU that need not be there."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

import fusetune
from fusetune.core.config import NamedConfig
from fusetune.core.decision import Gain
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.problem import NamedProblem
from fusetune.ops.hashing import innermost
from fusetune.ops.naming import kernel_place, op_name
from fusetune.ops.sources import source_hash_of
from fusetune.runtime import launch_configs
from fusetune.store.paths import config_path
from fusetune.store.schema import Entry, GainOver, Times
from fusetune.store.yaml_files import write_entry

H200 = TargetIdentity(name="NVIDIA H200", capability="9.0", sms=132)
GAIN = Gain(median=0.2, low=0.19, high=0.21, confidence=0.95, min_gain=0.02, blocks=50)


def write_tuned(
    folder: Path,
    kernel: Any,
    problem: dict[str, Any],
    config: NamedConfig,
    *,
    before: NamedConfig | None = None,
    source_hash: str | None = None,
    triton: str | None = None,
    identity: TargetIdentity = H200,
) -> Path:
    """Add the entry of a config that was kept for a launch of a kernel."""
    function = innermost(kernel)
    place = (function.__module__, function.__qualname__, function.__code__.co_filename)
    over = None if before is None else GainOver(0.3, 0.29, 0.31, 50, NamedConfig(**before.constants()))
    entry = Entry(
        problem=NamedProblem(**problem),
        before=before,
        config=config,
        evidence="measured",
        verdict="keep",
        reason="gain_confirmed",
        environment=Environment(
            triton=triton or version("triton"),
            kernel_hash=source_hash or source_hash_of(kernel),
            torch=str(torch.__version__),
            cuda=torch.version.cuda,
        ),
        run="20261123T101500-3f9a21",
        date="2026-11-23",
        gain=GAIN,
        gain_over_baseline=over,
        time_us=Times(before=None if before is None else 10.0, baseline=11.4, conservative=11.4, config=8.0),
    )
    path = config_path(folder, identity.name, op_name(*place))
    write_entry(path, op_name(*place), identity, entry, None, (kernel_place(*place), place[2]))
    return path


def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of configs that is all that look-ups see, on an H200; `fusetune.load()` has to follow the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fusetune.store.paths.shipped_configs", lambda: None)
    monkeypatch.setattr("platformdirs.user_config_path", lambda name: tmp_path / "home" / name)
    monkeypatch.delenv("FUSETUNE_CONFIGS", raising=False)
    monkeypatch.setattr(launch_configs, "current_identity", lambda: H200)
    fusetune.load()
    return tmp_path / "configs"

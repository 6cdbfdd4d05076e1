"""Pins, planted regressions and exported modules, with the real compiler and the installed command."""

from __future__ import annotations

import re

import pytest
import yaml

from fusetune.errors import EXIT_INCONCLUSIVE, EXIT_OK, EXIT_REGRESSION
from fusetune.measure.nvml import gpu_present
from fusetune.ops.gemm_scale.config import BASELINE
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.store.schema import ConfigFile, Entry, Environment, TargetIdentity, Times
from fusetune.store.yaml_files import dump_config_file
from tests.e2e.gemm_scale.test_commands import FILE, Workplace

pytestmark = pytest.mark.skipif(gpu_present(), reason="there is a GPU here; these tests say what happens without one")

PINS = FILE.parent / "pins" / FILE.name


def entry_of(rows: int) -> Entry:
    return Entry(
        problem=make_problem(rows, 512, 1024, "float32"),
        config=BASELINE,
        evidence="predicted",
        verdict="unverified",
        reason="predicted_not_timed",
        environment=Environment(triton="3.7.1", kernel_hash="0" * 16),
        run="20261123T101500-3f9a",
        date="2026-11-23",
        predicted_us=Times(baseline=20.0, conservative=12.0, config=10.0),
    )


@pytest.fixture(scope="module")
def pinned(tmp_path_factory, compiled) -> Workplace:
    """A workplace with one config, pinned. Tests put its files back."""
    workplace = Workplace(tmp_path_factory.mktemp("pinned"), compiled)
    target = TargetIdentity("NVIDIA GeForce RTX 4090", "8.9", 128)
    path = workplace.folder / FILE
    path.parent.mkdir(parents=True)
    path.write_text(dump_config_file(ConfigFile(schema=2, op="gemm_scale", target=target, entries=(entry_of(128),))))
    done = workplace.fusetune("gate", "--pin")
    assert done.returncode == EXIT_OK, done.stdout + done.stderr
    assert f"Pinned 1 config in {PINS}" in done.stdout
    return workplace


def _edit(workplace: Workplace, change) -> None:
    document = yaml.safe_load((workplace.folder / PINS).read_text())
    change(document)
    (workplace.folder / PINS).write_text(yaml.safe_dump(document))


def test_the_compiler_makes_the_same_machine_code_again(pinned: Workplace) -> None:
    done = pinned.fusetune("gate", "--static")
    assert done.returncode == EXIT_OK, done.stdout + done.stderr
    assert re.search(r"^ok .* registers, no spill, .* as pinned$", done.stdout, re.MULTILINE)


def test_more_registers_than_pinned_fail_the_build_and_fewer_ask_for_a_new_pin(pinned: Workplace) -> None:
    held = (pinned.folder / PINS).read_text()
    try:
        for by, sign, code in ((-8, "REGRESSION", EXIT_REGRESSION), (8, "re-pin", EXIT_OK)):
            (pinned.folder / PINS).write_text(held)

            def change(document, by=by) -> None:
                kernel = document["entries"][0]["kernels"][0]
                kernel["registers"] += by
                kernel["cubin"] = "0" * 16

            _edit(pinned, change)
            done = pinned.fusetune("gate", "--static", "--junit", "gate.xml")
            assert done.returncode == code, done.stdout + done.stderr
            assert re.search(rf"^{sign} .*registers \d+ -> \d+", done.stdout, re.MULTILINE)
            assert ("<failure" in (pinned.folder / "gate.xml").read_text()) == (code != EXIT_OK)
    finally:
        (pinned.folder / PINS).write_text(held)


def test_an_entry_that_nobody_pinned_is_exit_3(pinned: Workplace) -> None:
    held = (pinned.folder / FILE).read_text()
    target = TargetIdentity("NVIDIA GeForce RTX 4090", "8.9", 128)
    both = ConfigFile(schema=2, op="gemm_scale", target=target, entries=(entry_of(128), entry_of(256)))
    try:
        (pinned.folder / FILE).write_text(dump_config_file(both))
        done = pinned.fusetune("gate", "--static")
        assert done.returncode == EXIT_INCONCLUSIVE
        assert re.search(r"^NOT PINNED .*M=256", done.stdout, re.MULTILINE)
    finally:
        (pinned.folder / FILE).write_text(held)


def test_an_exported_module_is_written_and_loads_without_this_project(pinned: Workplace) -> None:
    done = pinned.fusetune("export", "--M", "128", "--K", "1024", "--N", "512", "-o", "optimized.py")
    assert done.returncode == EXIT_OK, done.stderr
    loaded = pinned.python(
        """
        import sys
        sys.path.insert(0, ".")
        import optimized
        model = optimized.ModelNew(1024, 512, (512,))
        print(sorted(model.state_dict()), "fusetune" in sys.modules)
        """
    )
    assert loaded.returncode == 0, loaded.stderr
    assert "'gemm.weight', 'scale'] False" in loaded.stdout

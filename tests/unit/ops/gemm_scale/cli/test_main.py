"""The command line from outside: exit codes, one clear message for each mistake, and what a run prints."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import click
import msgspec
import pytest

import fusetune
from fusetune import errors
from fusetune.cli.main import cli, main
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.resources import Resources
from fusetune.core.target import find_target
from fusetune.measure.fake import FakeMeasurer
from fusetune.measure.protocol import Failure
from fusetune.ops import loading as spec_module
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.linear_scale import SPEC
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.store.journal import RunStart, read_journal
from fusetune.store.schema import Entry, Times
from fusetune.store.yaml_files import read_config_file, write_entry
from tests.support.fake_compiler import FakeCompiler, install

RTX4090 = find_target("rtx4090")
IDENTITY = TargetIdentity(name=RTX4090.name, capability=RTX4090.capability, sms=RTX4090.sms)
SIZES = ("--M", "128", "--K", "1024", "--N", "512")
COMMANDS = (
    *(
        "sweep",
        "tune",
        "run",
        "report",
        "compare",
        "export",
        "capture",
        "gate",
        "inspect",
        "profile",
        "targets",
        "warmup",
        "worker",
        "doctor",
        "env",
    ),
)
WARPS8 = Config(num_warps=8)
PREDICTED = Entry(
    problem=make_problem(128, 512, 1024, "float32"),
    config=WARPS8,
    evidence="predicted",
    verdict="unverified",
    reason="predicted_not_timed",
    environment=Environment(triton="3.7.1", kernel_hash="0" * 16),
    run="20261123T101500-3f9a",
    date="2026-11-23",
    predicted_us=Times(baseline=14.0, conservative=14.0, config=9.0),
)


class Ran(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the test's own, and no GPU."""
    monkeypatch.chdir(tmp_path)
    for name in ("FUSETUNE_CONFIGS", "FUSETUNE_RUNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """The command inside this process, exactly as the entry point runs it."""

    def call(*arguments: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["fusetune", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        assert isinstance(stop.value.code, int)
        return Ran(stop.value.code, *capsys.readouterr())

    return call


def spawn(*arguments: str | Path) -> Ran:
    """The command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "fusetune", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(fusetune.__file__).parents[1])},
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def message_of(ran: Ran) -> str:
    """The one message of a command that was refused: exit code 2, nothing on stdout, no traceback."""
    assert ran.code == 2, ran
    assert ran.out == ""
    assert "Traceback" not in ran.err
    told = [line for line in ran.err.splitlines() if line.startswith("Error: ")]
    assert len(told) == 1, ran.err
    assert ran.err.rstrip().endswith(told[0])
    return told[0]


# --- mistakes

MISTAKES = {
    "unknown target": (("sweep", *SIZES, "--target", "rtx9999"), ("rtx9999", "rtx4090")),
    "negative size": (("sweep", "--M", "-5", "--K", "16", "--N", "16"), ("--M", "-5")),
    "size of zero": (("sweep", "--M", "16", "--K", "0", "--N", "16"), ("--K", "0")),
    "size beyond 32 bits": (("sweep", "--M", "16", "--K", "16", "--N", "2147483648"), ("N is 2147483648",)),
    "size that is no number": (("sweep", "--M", "many", "--K", "16", "--N", "16"), ("--M", "many")),
    "missing size": (("sweep", "--M", "16", "--K", "16"), ("--N",)),
    "unknown op": (("sweep", *SIZES, "--op", "conv9d"), ("conv9d", "gemm_scale", "module:attribute")),
    "op in no module": (("sweep", *SIZES, "--op", "nowhere.at.all:SPEC"), ("nowhere.at.all:SPEC", "No module")),
    "op that is nothing of a module": (("sweep", *SIZES, "--op", "json:SPEC"), ("json:SPEC", "SPEC")),
    "op that is no kernel": (("sweep", *SIZES, "--op", "json:dumps"), ("json:dumps", "KernelSpec")),
    "precision of 16-bit inputs": (
        ("sweep", *SIZES, "--dtype", "float16", "--precision", "tf32"),
        ("precision", "float16", "leave it out"),
    ),
    "no mode of an op that has two": (
        ("sweep", *SIZES, "--op", "gemm_scale_bn"),
        ("gemm_scale_bn", "--mode train or --mode eval"),
    ),
    "mode of an op that has none": (("sweep", *SIZES, "--mode", "eval"), ("gemm_scale has no mode 'eval'",)),
    "unknown mode": (("sweep", *SIZES, "--mode", "test"), ("--mode", "test", "train")),
    "training of one row": (
        ("sweep", "--M", "1", "--K", "16", "--N", "16", "--op", "gemm_scale_bn", "--mode", "train"),
        ("more than one row",),
    ),
    "unknown dtype": (("sweep", *SIZES, "--dtype", "int4"), ("--dtype", "int4", "float32")),
    "unknown precision": (("sweep", *SIZES, "--precision", "exact"), ("--precision", "exact", "tf32")),
    "unknown space": (("sweep", *SIZES, "--space", "huge"), ("--space", "huge", "standard")),
    "gain of everything": (("sweep", *SIZES, "--min-gain", "1"), ("--min-gain", "1")),
    "certainty": (("sweep", *SIZES, "--confidence", "1"), ("--confidence", "1")),
    "no workers": (("sweep", *SIZES, "--workers", "0"), ("--workers", "0")),
    "unknown option": (("sweep", *SIZES, "--fast"), ("--fast",)),
    "unknown command": (("tone",), ("tone",)),
    "no program": (("tune",), ("no program is given",)),
    "gate on nothing": (("gate", "--static", "nowhere"), ("nowhere", "no such file or folder")),
    "gate without configs": (("gate", "--static"), ("no tuned configs in ./configs", "fusetune sweep")),
    "report on nothing": (("report", "--configs", "nowhere"), ("--configs", "nowhere")),
}


@pytest.mark.parametrize(("arguments", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_clear_message_and_exit_code_2(
    run: Callable[..., Ran], arguments: tuple[str, ...], told: tuple[str, ...]
) -> None:
    message = message_of(run(*arguments))
    for part in told:
        assert part in message


@pytest.mark.parametrize("mistake", ["unknown target", "missing size", "unknown op", "gate on nothing"])
def test_a_mistake_is_the_same_in_a_process_of_its_own(mistake: str) -> None:
    arguments, told = MISTAKES[mistake]
    message = message_of(spawn(*arguments))
    for part in told:
        assert part in message


@pytest.mark.parametrize("option", ["--output", "--runs"])
def test_a_file_in_the_place_of_a_folder_is_refused_by_its_option(
    run: Callable[..., Ran], tmp_path: Path, option: str
) -> None:
    (tmp_path / "taken").touch()
    message = message_of(run("sweep", *SIZES, option, tmp_path / "taken"))
    assert option in message
    assert str(tmp_path / "taken") in message


def test_a_file_in_the_way_of_the_output_is_refused_before_anything_is_compiled(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    ran = spawn("sweep", *SIZES, "--target", "rtx4090", "--output", tmp_path / "taken" / "configs")
    (message,) = [line for line in ran.err.splitlines() if line.startswith("Error: ")]
    assert ran.code == 2
    assert f"{tmp_path / 'taken'} is not a folder that you may write to" in message
    assert "Traceback" not in ran.err
    assert "Compiling" not in ran.err
    assert not (tmp_path / ".fusetune").exists()


def test_a_file_in_the_way_of_the_journal_is_refused(run: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    ran = run("sweep", *SIZES, "--target", "rtx4090", "--runs", tmp_path / "taken" / "runs")
    (message,) = [line for line in ran.err.splitlines() if line.startswith("Error: ")]
    assert ran.code == 2
    assert str(tmp_path / "taken" / "runs") in message
    assert not (tmp_path / "configs").exists()


DAMAGES = {
    "no yaml": (b"schema: [1\n", "line 2"),
    "no mapping": (b"just words\n", "line 1"),
    "empty": (b"", "line 1"),
    "not text": (b"schema: 1\nop: \xff\xfe\n", "line 2"),
    "unknown key": (b"schema: 1\nop: gemm_scale\nwarps: 4\n", "warps"),
    "newer schema": (b"schema: 99\n", "upgrade fusetune"),
}


@pytest.mark.parametrize(("data", "told"), DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("static", [True, False])
def test_a_damaged_file_is_refused_by_name_and_place(
    run: Callable[..., Ran], tmp_path: Path, data: bytes, told: str, static: bool
) -> None:
    path = tmp_path / "gemm_scale.yaml"
    path.write_bytes(data)
    message = message_of(run("gate", *(["--static"] if static else []), path))
    assert str(path) in message
    assert told in message


def test_one_damaged_file_among_good_ones_is_refused(run: Callable[..., Ran], tmp_path: Path) -> None:
    write_entry(tmp_path / "configs" / "good" / "gemm_scale.yaml", "gemm_scale", IDENTITY, PREDICTED)
    (tmp_path / "configs" / "worse").mkdir()
    (tmp_path / "configs" / "worse" / "gemm_scale.yaml").write_text("schema: 1\n")
    message = message_of(run("gate", "--static", tmp_path / "configs"))
    assert "worse/gemm_scale.yaml" in message


def test_the_gate_without_a_gpu_exits_4_and_names_the_way_out(tmp_path: Path) -> None:
    write_entry(tmp_path / "configs" / "some" / "gemm_scale.yaml", "gemm_scale", IDENTITY, PREDICTED)
    ran = spawn("gate")
    assert (ran.code, ran.out) == (4, "")
    assert ran.err.splitlines() == [
        "Error: there is no NVIDIA GPU here to measure on; `fusetune gate --static` checks without one"
    ]


@pytest.mark.parametrize(
    "error",
    [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.FusetuneError) and kind is not errors.FusetuneError
    ],
    ids=lambda kind: kind.__name__,
)
def test_every_error_ends_in_its_message_and_its_exit_code(
    run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, error: type[errors.FusetuneError]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error("what was wrong, where, and what to do next")

    monkeypatch.setattr("fusetune.cli.sweep.find_target", fail)
    ran = run("sweep", *SIZES, "--target", "rtx4090")
    assert ran == Ran(error.exit_code, "", "Error: what was wrong, where, and what to do next\n")
    assert 1 <= ran.code <= 6


def test_an_interrupt_is_told_in_one_line(run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fusetune.cli.sweep.find_target", interrupt)
    ran = run("sweep", *SIZES, "--target", "rtx4090")
    told = "Interrupted; nothing was half-written; the same command goes on where this one stopped.\n"
    assert ran == Ran(130, "", told)
    fresh = run("sweep", *SIZES, "--target", "rtx4090", "--fresh")
    assert fresh.err == told.replace("the same", "without --fresh the same"), "which would begin anew"
    monkeypatch.setattr("fusetune.cli.targets.known_targets", interrupt)
    assert run("targets") == Ran(130, "", "Interrupted; nothing was half-written.\n")


# --- version and help


def test_the_version_is_the_package_s_own() -> None:
    assert spawn("--version") == Ran(0, f"fusetune, version {fusetune.__version__}\n", "")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_the_help_names_every_command_and_every_exit_code(run: Callable[..., Ran], flag: str) -> None:
    ran = run(flag)
    assert (ran.code, ran.err) == (0, "")
    assert set(COMMANDS) == set(cli.list_commands(click.Context(cli)))
    for name in COMMANDS:
        assert f"\n  {name} " in ran.out
    words = " ".join(ran.out.split())
    for code in ("0 done", "1 the gate", "2 usage", "3 noisy", "4 no usable GPU", "5 wrong results"):
        assert code in words


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_explains_every_option(run: Callable[..., Ran], name: str) -> None:
    ran = run(name, "--help")
    assert (ran.code, ran.err) == (0, "")
    words = " ".join(ran.out.split())
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert options
    for option in options:
        assert option.help, f"{option.opts} has no help"
        assert all(spelling in ran.out for spelling in option.opts)
        assert " ".join(option.help.split()[:4]) in words


def test_help_loads_neither_torch_nor_triton() -> None:
    code = (
        "import sys; from fusetune.cli.main import cli; cli(['sweep', '--help'], standalone_mode=False); "
        "print(*sorted({'torch', 'triton', 'scipy', 'rich'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.strip() == ""
    assert "--min-gain" in done.stdout


# --- what a run prints, with a simulated compiler and GPU


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    return install(monkeypatch)


class FakeServer:
    """Stands in for the process that a sweep starts first."""

    started: ClassVar[list[FakeServer]] = []

    def __init__(self) -> None:
        self.closed = False
        self.started.append(self)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, compiler: FakeCompiler) -> dict[str, Any]:
    """A simulated RTX 4090 in the place of a GPU; a test changes what it does, and finds it under `used`."""
    options: dict[str, Any] = {
        "true_us": lambda config: 20.0 if config == BASELINE else 25.0,
        "used": [],
        "servers": [],
    }

    def measurer(spec: Any, problem: Any, *, server: Any = None, **_: Any) -> FakeMeasurer:
        options["servers"].append(server)
        rest = {name: value for name, value in options.items() if name not in ("true_us", "used", "servers")}
        options["used"].append(FakeMeasurer(RTX4090, options["true_us"], **{"kernel_hash": SPEC.source_hash(), **rest}))
        return options["used"][-1]

    monkeypatch.setattr("fusetune.measure.nvml.gpu_present", lambda: True)
    monkeypatch.setattr("fusetune.measure.libraries.start_server", FakeServer)
    FakeServer.started.clear()
    monkeypatch.setattr("fusetune.measure.cuda.CudaMeasurer", measurer)
    return options


def faster(config: Config) -> float:
    """WARPS8 gains half over BASELINE and everything else of the seed's space."""
    return 10.0 if config == WARPS8 else 20.0


def test_a_prediction_says_that_nothing_was_timed_and_writes_the_file(
    run: Callable[..., Ran], tmp_path: Path, compiler: FakeCompiler
) -> None:
    ran = run("sweep", *SIZES)
    path = Path("configs/nvidia-geforce-rtx-4090/gemm_scale.yaml")
    assert ran.code == 0
    assert "Predicting for NVIDIA GeForce RTX 4090, because there is no NVIDIA GPU here" in ran.out
    assert f"Wrote {path} (evidence: predicted, verdict: unverified" in ran.out
    assert "Nothing was timed" in ran.out
    (entry,) = read_config_file(path).entries
    assert entry.evidence == "predicted"
    assert f"By the keep rule on these predictions: {entry.config.label()}" in ran.out
    assert [line.split(".")[0].strip() for line in ran.out.splitlines() if " w" in line and "predicted" in line][
        :3
    ] == [
        "1",
        "2",
        "3",
    ]
    assert len(list((tmp_path / ".fusetune" / "runs").glob("*.jsonl"))) == 1


def test_a_named_target_is_predicted_for_even_where_a_gpu_is(run: Callable[..., Ran], gpu: dict[str, Any]) -> None:
    ran = run("sweep", *SIZES, "--target", "H200", "--output", "elsewhere")
    assert ran.code == 0
    assert "Predicting for NVIDIA H200, because --target H200 was given" in ran.out
    assert gpu["used"] == []
    assert Path("elsewhere/nvidia-h200/gemm_scale.yaml").exists()


def test_a_kept_config_is_told_with_its_evidence(run: Callable[..., Ran], gpu: dict[str, Any]) -> None:
    gpu["true_us"] = faster
    ran = run("sweep", *SIZES, "--space", "seed", "--confidence", "0.999")
    assert ran.code == 0
    lines = ran.out.splitlines()
    verdict = next(line for line in lines if line.startswith("KEEP: "))
    assert verdict.startswith(f"KEEP: {WARPS8.label()}  (the gain over BASELINE")
    (gain,) = [line for line in lines if line.strip().startswith("gain ")]
    assert "+50.0 % in [+" in gain
    assert "at 99.9 %" in gain
    assert "2.00x" in gain
    assert any(line.startswith("Wrote configs/nvidia-geforce-rtx-4090/gemm_scale.yaml (run ") for line in lines)
    (entry,) = read_config_file(Path("configs/nvidia-geforce-rtx-4090/gemm_scale.yaml")).entries
    assert (entry.config, entry.verdict, entry.evidence) == (WARPS8, "keep", "measured")
    assert all(measurer.closed for measurer in gpu["used"])


def test_the_process_that_measures_is_started_before_the_op_is_loaded_and_handed_on(
    run: Callable[..., Ran], gpu: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    load = spec_module.load_spec

    def load_spec(op: str) -> Any:
        started.append(len(FakeServer.started))
        return load(op)

    monkeypatch.setattr(spec_module, "load_spec", load_spec)
    assert run("sweep", *SIZES, "--space", "seed").code == 0
    (server,) = FakeServer.started
    assert started == [1]
    assert gpu["servers"] == [server]
    assert server.closed


def test_a_list_of_shapes_names_ops_and_imports_no_module(
    run: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "unasked.py").write_text("SPEC = None\n", encoding="utf-8")
    shapes = tmp_path / "shapes.yaml"
    shapes.write_text("- {M: 128, N: 512, K: 1024, op: 'unasked:SPEC'}\n", encoding="utf-8")
    ran = run("sweep", "--shapes", str(shapes))
    assert ran.code == 2
    assert "line 1: op is 'unasked:SPEC', and a file names no module to import" in ran.err
    assert "unasked" not in sys.modules


def test_an_op_that_cannot_be_loaded_ends_the_process_that_was_started_for_it(
    run: Callable[..., Ran], gpu: dict[str, Any]
) -> None:
    ran = run("sweep", *SIZES, "--op", "no.such.module:SPEC")
    assert ran.code == 2
    assert "cannot load no.such.module:SPEC" in ran.err
    (server,) = FakeServer.started
    assert server.closed
    assert gpu["used"] == []


def test_a_wrong_option_and_a_prediction_start_no_process(run: Callable[..., Ran], gpu: dict[str, Any]) -> None:
    assert run("sweep", *SIZES, "--dtype", "float16", "--precision", "ieee").code == 2
    assert run("sweep", *SIZES, "--target", "no such GPU").code == 2
    assert run("sweep", *SIZES, "--target", "rtx4090").code == 0
    assert FakeServer.started == []


@pytest.mark.parametrize(("option", "prior"), [((), True), (("--prior", "on"), True), (("--prior", "off"), False)])
def test_the_prior_is_on_unless_it_is_turned_off(
    run: Callable[..., Ran], gpu: dict[str, Any], option: tuple[str, ...], prior: bool
) -> None:
    assert run("sweep", *SIZES, "--space", "seed", *option).code == 0
    (journal,) = Path(".fusetune/runs").glob("*.jsonl")
    start = next(iter(read_journal(journal)))
    assert isinstance(start, RunStart)
    assert start.prior is prior


LIBRARY = Config(variant="library")


def beside_library(time_us: float) -> Callable[[Config], float]:
    """WARPS8 takes 10 us, the library this."""
    return lambda config: time_us if config == LIBRARY else faster(config)


def test_a_slower_library_is_told_and_not_taken(run: Callable[..., Ran], gpu: dict[str, Any]) -> None:
    gpu["true_us"] = beside_library(13.4)
    ran = run("sweep", *SIZES, "--space", "seed", "--allow-library")
    assert f"KEEP: {WARPS8.label()}" in ran.out
    assert "  cuBLAS and a finishing kernel: 13.4 us, 34 % slower\n" in ran.out


def test_a_faster_library_is_told_with_how_to_let_it_win_and_then_wins(
    run: Callable[..., Ran], gpu: dict[str, Any]
) -> None:
    gpu["true_us"] = beside_library(8.7)
    ran = run("sweep", *SIZES, "--space", "seed")
    assert f"KEEP: {WARPS8.label()}" in ran.out
    told = "cuBLAS and a finishing kernel: 8.70 us, 13 % faster: --allow-library lets it win"
    assert f"  {told}\n" in ran.out
    shown = run("report")
    assert shown.code == 0
    assert told in " ".join(shown.out.split())
    allowed = run("sweep", *SIZES, "--space", "seed", "--allow-library")
    assert "KEEP: library  (the library is faster than all of ours, and its gain over BASELINE" in allowed.out
    assert "cuBLAS" not in allowed.out
    (entry,) = read_config_file(Path("configs/nvidia-geforce-rtx-4090/gemm_scale.yaml")).entries
    assert (entry.config, entry.library) == (LIBRARY, None)


def test_an_op_with_modes_is_swept_in_the_one_that_is_asked_for(run: Callable[..., Ran], gpu: dict[str, Any]) -> None:
    folded = Config(variant="library_folded")
    gpu["true_us"] = lambda config: 15.0 if config == folded else 20.0
    ran = run("sweep", *SIZES, "--op", "gemm_scale_bn", "--mode", "eval", "--space", "seed")
    assert ran.code == 0
    assert "gemm_scale_bn  M=128 K=1024 N=512 float32 tf32 eval" in ran.out
    assert "cuBLAS with folded weights: 15.0 us, 25 % faster: --allow-library lets it win" in ran.out
    (entry,) = read_config_file(Path("configs/nvidia-geforce-rtx-4090/gemm_scale_bn.yaml")).entries
    assert (entry.problem.mode, entry.verdict) == ("eval", "revert")


def test_a_revert_is_an_answer_and_says_what_was_needed(run: Callable[..., Ran], gpu: dict[str, Any]) -> None:
    gpu["true_us"] = lambda config: 19.8 if config == WARPS8 else 20.0
    ran = run("sweep", *SIZES, "--space", "seed", "--min-gain", "0.015")
    assert ran.code == 0
    assert f"REVERT: {BASELINE.label()}" in ran.out
    (line,) = [line for line in ran.out.splitlines() if line.strip().startswith("best candidate")]
    assert "+1.0 % in" in line
    assert line.endswith("where 1.5 % is needed")


def test_an_inconclusive_sweep_exits_3_and_stores_the_safe_config(run: Callable[..., Ran], gpu: dict[str, Any]) -> None:
    gpu.update(true_us=lambda config: 19.6 if config == WARPS8 else 20.0, noise=0.01)
    ran = run("sweep", *SIZES, "--space", "seed")
    assert ran.code == 3
    assert f"INCONCLUSIVE: {BASELINE.label()}" in ran.out
    (entry,) = read_config_file(Path("configs/nvidia-geforce-rtx-4090/gemm_scale.yaml")).entries
    assert (entry.config, entry.verdict) == (BASELINE, "inconclusive")


def test_a_noisy_machine_exits_3_writes_nothing_and_gives_the_gpu_back(
    run: Callable[..., Ran], gpu: dict[str, Any]
) -> None:
    gpu["noise"] = 0.2
    ran = run("sweep", *SIZES, "--space", "seed")
    assert ran.code == 3
    assert ran.err.splitlines()[-1].startswith("Error: BASELINE against itself shows a gain of")
    assert not Path("configs").exists()
    assert all(measurer.closed for measurer in gpu["used"])


def test_a_measured_entry_survives_a_prediction_and_the_command_says_so(
    run: Callable[..., Ran], gpu: dict[str, Any]
) -> None:
    gpu["true_us"] = faster
    run("sweep", *SIZES, "--space", "seed")
    ran = run("sweep", *SIZES, "--target", "rtx4090")
    assert ran.code == 0
    assert f"already holds a measured entry for this problem, {WARPS8.label()}; it stays" in ran.out
    (entry,) = read_config_file(Path("configs/nvidia-geforce-rtx-4090/gemm_scale.yaml")).entries
    assert entry.evidence == "measured"


def test_the_gate_tells_each_entry_and_exits_with_the_worst(run: Callable[..., Ran], gpu: dict[str, Any]) -> None:
    gpu["true_us"] = faster
    run("sweep", *SIZES, "--space", "seed")
    held = run("gate")
    assert held.code == 0
    assert held.out.splitlines()[0].startswith("ok           configs/nvidia-geforce-rtx-4090/gemm_scale.yaml  M=128")
    assert held.out.splitlines()[-1] == "gate: 1 ok"

    gpu["true_us"] = lambda _: 20.0
    slow = run("gate", "configs")
    assert slow.code == 1
    assert slow.out.startswith("REGRESSION")
    assert slow.out.splitlines()[-1] == "gate: 1 REGRESSION"

    gpu.update(true_us=faster, failures={WARPS8: Failure("wrong_result", "off by one")})
    wrong = run("gate", "configs/nvidia-geforce-rtx-4090/gemm_scale.yaml")
    assert wrong.code == 5
    assert "wrong_result: off by one" in wrong.out

    gpu.update(failures=None, noise=0.2)
    noisy = run("gate")
    assert noisy.code == 3
    assert noisy.out.startswith("INCONCLUSIVE")


def test_the_static_gate_needs_no_gpu_and_says_that_nothing_was_timed(
    run: Callable[..., Ran], tmp_path: Path, compiler: FakeCompiler
) -> None:
    path = tmp_path / "configs" / "some" / "gemm_scale.yaml"
    other = msgspec.structs.replace(PREDICTED, problem=make_problem(64, 512, 1024, "float32"), config=BASELINE)
    for entry in (PREDICTED, other):
        write_entry(path, "gemm_scale", IDENTITY, entry)
    ran = run("gate", "--static")
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == "gate: 2 ok (compiled, nothing was timed)"

    compiler.planted = {WARPS8: Resources(255, 120, 4096)}
    ran = run("gate", "--static", path)
    assert ran.code == 1
    assert "REGRESSION" in ran.out
    assert "spills: 120 bytes" in ran.out
    assert ran.out.splitlines()[-1] == "gate: 1 ok, 1 REGRESSION (compiled, nothing was timed)"


def test_the_static_gate_refuses_a_gpu_that_it_cannot_compile_for(
    run: Callable[..., Ran], tmp_path: Path, compiler: FakeCompiler
) -> None:
    unknown = TargetIdentity(name="NVIDIA Unheard", capability="8.9", sms=128)
    write_entry(tmp_path / "gemm_scale.yaml", "gemm_scale", unknown, PREDICTED)
    ran = run("gate", "--static", tmp_path / "gemm_scale.yaml")
    assert ran.code == 2
    assert "NVIDIA Unheard" in ran.err

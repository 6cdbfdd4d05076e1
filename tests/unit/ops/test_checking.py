"""A spec is checked before any work: each mistake is a line that names op, member and fix."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from fusetune.errors import OpError, UnsupportedProblemError, UsageError
from fusetune.ops import loading
from fusetune.ops.built_in import built_in_ops
from fusetune.ops.checking import check_reference, check_spec
from fusetune.ops.loading import load_spec
from fusetune.ops.spec import KernelSpec, Operand
from fusetune.ops.told import is_mistake, naming
from tests.support.sample import EVALUATION, OP, OP_WITH_MODES, PLACE, TRAINING

SOUND = """
import triton
import triton.language as tl

from fusetune import KernelSpec, Launch, Operand, Space


@triton.jit
def double(x_ptr, y_ptr, n, BLOCK: tl.constexpr, SHIFT: tl.constexpr = 0):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n) * 2 + SHIFT, mask=at < n)


class Double(KernelSpec):
    name = "double"
    space = Space({"BLOCK": (64, 128)})

    def operands(self, problem):
        return Operand("x", (problem.n,), "float32"), Operand("y", (problem.n,), "float32", "output")

    def launches(self, problem, config, tensors):
        arguments = {"x_ptr": tensors["x"], "y_ptr": tensors["y"], "n": problem.n}
        grid = (triton.cdiv(problem.n, config.BLOCK),)
        return [Launch(double, grid, arguments, {"BLOCK": config.BLOCK}, config.options())]

    def reference(self, problem, inputs):
        return {"y": inputs["x"].double() * 2}


SPEC = Double()
"""
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_given", {})
    monkeypatch.setattr("sys.path", [*__import__("sys").path])


def loaded(folder: Path, *changes: tuple[str, str]) -> KernelSpec:
    """The sound op with these changes to its source."""
    source = SOUND
    for old, new in changes:
        assert old in source, old
        source = source.replace(old, new)
    path = folder / f"op_of_a_test_{next(_numbers)}.py"
    path.write_text(source, encoding="utf-8")
    return load_spec(f"{path}:SPEC")


def test_a_sound_spec_is_let_through_and_may_leave_out_what_has_a_default(tmp_path: Path) -> None:
    spec = loaded(tmp_path)
    check_spec(spec, spec.problem({"n": 1000}))


@pytest.mark.parametrize("op", sorted(built_in_ops()))
def test_the_built_in_ops_are_let_through(op: str) -> None:
    spec = load_spec(op)
    for sizes in ({"M": 2, "N": 1, "K": 1}, {"M": 128, "N": 512, "K": 1024}):
        for mode in ({"mode": TRAINING}, {"mode": EVALUATION}) if op == OP_WITH_MODES else ({},):
            problem = spec.problem({**sizes, **mode})
            check_spec(spec, problem)
            generator = torch.Generator().manual_seed(0)
            operands = [one for one in spec.operands(problem) if one.role != "output"]
            inputs = {one.name: one.allocate("cpu") for one in operands}
            for one in operands:
                one.draw(inputs[one.name], generator)
            check_reference(spec, problem, spec.reference(problem, inputs))


X = 'Operand("x", (problem.n,), "float32")'
MISTAKES = {
    # Of the launches.
    "a constant that the kernel lacks": (
        '{"BLOCK": config.BLOCK}',
        '{"BLOK": config.BLOCK}',
        "its launches() give double a BLOK, which it does not take; its parameters are x_ptr, y_ptr, n, BLOCK, SHIFT; "
        "did you mean BLOCK?",
    ),
    "an argument that the kernel lacks": ('"n": problem.n', '"count": problem.n', "give double a count, which it does"),
    "an argument left out": (', "n": problem.n', "", "give double no n, which it needs; add it to the arguments"),
    "a constant left out": (
        '{"BLOCK": config.BLOCK}',
        "{}",
        "double no BLOCK, which it needs; add it to the constants",
    ),
    "a constant as an argument": (
        '"n": problem.n}\n        grid = (triton.cdiv(problem.n, config.BLOCK),)\n        return [Launch(double, grid, '
        'arguments, {"BLOCK": config.BLOCK}',
        '"n": problem.n, "BLOCK": 64}\n        grid = (4,)\n        return [Launch(double, grid, arguments, {}',
        "give double BLOCK as an argument; it is a tl.constexpr: add it to the constants instead",
    ),
    "a value given twice": (
        '{"BLOCK": config.BLOCK}',
        '{"BLOCK": 64, "n": 5}',
        "give double n twice, in arguments and",
    ),
    "an option that is none": (
        "config.options())]",
        '{"num_warp": 4})]',
        "give double the option num_warp, which Triton does not know; did you mean num_warps?",
    ),
    "a parameter as an option": (
        "config.options())]",
        '{"SHIFT": 4})]',
        "give double SHIFT as an option; it is a parameter of double: add it to the constants or arguments",
    ),
    "a grid that is a function": (
        "grid = (",
        "grid = lambda meta: (",
        "give double the grid a function; write a tuple",
    ),
    "a grid of four": ("config.BLOCK),)", "config.BLOCK), 1, 1, 1)", "the grid (16, 1, 1, 1); write a tuple of one to"),
    "a grid of a fraction": ("triton.cdiv(problem.n, config.BLOCK)", "problem.n / 2", "give double the grid (500.0,)"),
    "a kernel that is no Triton function": (
        "@triton.jit\n",
        "",
        "launch double, which is no @triton.jit function; put",
    ),
    "an autotuner": (
        "@triton.jit\n",
        '@triton.autotune([triton.Config({"BLOCK": 64})], key=["n"])\n@triton.jit\n',
        "launch Autotuner, which is no @triton.jit function; fusetune chooses configs itself, so name the @triton.jit",
    ),
    "a launch that is not in a list": ("return [Launch(", "return (Launch(", None),
    "launches that are none": (
        "return [Launch(double,",
        "[Launch(double,",
        "its launches() give None, and have to give",
    ),
    "no launch at all": (
        "return [Launch(double,",
        "return []\n        [Launch(double,",
        "its launches() give none for",
    ),
    "a launch that raises": (
        'tensors["y"]',
        'tensors["z"]',
        "op double: its launches() fails: KeyError: 'z' (op_of_a_test_",
    ),
    # Of the operands.
    "a dtype that nobody has": (
        X,
        X.replace("float32", "float31"),
        "give x the dtype 'float31'; write one of float64,",
    ),
    "a dtype that torch lacks": (X, X.replace("float32", "int3"), "its operands() give x the dtype 'int3'; write one"),
    "a dtype of torch's own": (X, X.replace('"float32"', "tl.float32"), "its operands() give x the dtype "),
    "a role that is none": (
        '"output")',
        '"outputs")',
        "its operands() give y the role 'outputs'; write one of input, out",
    ),
    "a tensor given twice": (
        'Operand("y"',
        'Operand("x"',
        "it has two tensors called x; give each operand and scratch",
    ),
    "a shape that is a number": (
        '"x", (problem.n,)',
        '"x", problem.n',
        "its operands() give x the shape 1000; write a",
    ),
    "a shape of a fraction": ('"x", (problem.n,)', '"x", (problem.n / 3,)', "give x the shape (333.3"),
    "an empty tensor": (
        '"x", (problem.n,)',
        '"x", (0, problem.n)',
        "give x the shape (0, 1000); write a tuple of whole",
    ),
    "no operands": ("return Operand", "Operand", "its operands() give None, and have to give a tuple of Operand"),
    "operands that are names": (X, '"x"', "its operands() give 'x', which is no Operand"),
    "nothing that is written": (', "output")', ")", "none of its operands() is an output or a state, so that nothing"),
    "operands that raise": (
        "(problem.n,)",
        "(problem.m,)",
        "its operands() fails: AttributeError: there is no 'm' in n",
    ),
    "an operand of too many parts": ('"output")', '"output", 1, 2, 3)', "its operands() fails: TypeError:"),
    # Of the space, BASELINE and scratch.
    "a space that is a mapping": ("Space({", "dict({", "its space is a mapping; write Space({'BLOCK': (64, 128)})"),
    "values that are none": ("(64, 128)", "64", "its space gives BLOCK the values 64; write a tuple of one or more"),
    "no values": ("(64, 128)", "()", "its space gives BLOCK the values (); write a tuple of one or more"),
    "a baseline that is none": (
        "    def reference",
        "    def baseline(self, problem):\n        return {'BLOCK': 64}\n\n    def reference",
        "its baseline() gives a mapping, and has to give a Config",
    ),
    "a workspace that raises": (
        "    def reference",
        "    def workspace(self, problem, config):\n        return scratch\n\n    def reference",
        "its workspace() fails: NameError: name 'scratch' is not defined",
    ),
    "a class that another process does not find": (
        "SPEC = Double()",
        "SPEC = type('Inner', (Double,), {})()",
        "cannot be handed to the processes that compile and time it (Can't pickle <class",
    ),
    "what pickle cannot write": (
        "SPEC = Double()",
        "SPEC = Double()\nSPEC.made = lambda: 1",
        "keep nothing in it that pickle cannot write",
    ),
    "a workspace called as an operand": (
        "    def reference",
        '    def workspace(self, problem, config):\n        return [Operand("x", (4,), "int8")]\n\n    def reference',
        "it has two tensors called x",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_spec_is_one_line_before_anything_is_compiled(
    tmp_path: Path, mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(*arguments: Any, **named: Any) -> None:
        raise AssertionError("something was compiled")

    monkeypatch.setattr("triton.compile", compiled)
    monkeypatch.setattr("triton.compiler.compile", compiled)
    old, new, told = MISTAKES[mistake]
    changes = [(old, new)]
    if told is None:
        changes, told = (
            [*changes, ("config.options())]", "config.options()))")],
            "give a single one; give a list of them",
        )
    spec = loaded(tmp_path, *changes)
    with pytest.raises(OpError) as caught:
        check_spec(spec, spec.problem({"n": 1000}))
    message = str(caught.value)
    assert message.startswith("op double"), message
    assert told in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ('"a/b"', "its name is 'a/b', and has to be lower-case letters"),
        ('"a" * 101', "its name is 'aaaa"),
        ("5", "its name is 5, and has to be lower-case"),
        ("None", "its name is None, and has to be"),
        ('b"double"', "its name is b'double', and has to be"),
        ("property(lambda self: 1 / 0)", "does not say its name (ZeroDivisionError: division by zero); write it as a"),
        ("property(lambda self: self.title)", "does not say its name (AttributeError: "),
        (
            f'"{OP}"',
            f"is named {OP}, as the built-in op {PLACE} is; give it",
        ),
    ],
)
def test_a_name_that_cannot_name_a_file_or_is_another_s_is_refused(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        loaded(tmp_path, ('name = "double"', f"name = {name}"))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "op_of_a_test_" in str(caught.value)


def test_the_built_in_op_may_be_named_by_its_place() -> None:
    for name, place in built_in_ops().items():
        assert load_spec(place) is load_spec(name)


def test_a_problem_that_the_op_does_not_compute_is_told_as_before() -> None:
    spec = load_spec(OP_WITH_MODES)
    with pytest.raises(UnsupportedProblemError, match="give it one: --mode train or --mode eval"):
        check_spec(spec, spec.problem({"M": 1, "N": 1, "K": 1}))


@pytest.mark.parametrize(
    ("references", "told"),
    [
        (None, "its reference() gives None, and has to give a mapping"),
        ({}, "its reference() gives no y, so that it could not be checked; give every output"),
        ({"y": torch.zeros(3), "z": torch.zeros(3)}, "gives 'z', which is none of its outputs and states, y"),
        ({"y": torch.zeros(3, 1)}, "its reference() gives y the shape (3, 1), and its operands() (3,)"),
        ({"y": 3.0}, "its reference() gives y as 3.0, and its operands() (3,)"),
    ],
)
def test_a_reference_has_every_output_in_its_shape(tmp_path: Path, references: Any, told: str) -> None:
    spec = loaded(tmp_path)
    problem = spec.problem({"n": 3})
    check_reference(spec, problem, {"y": torch.zeros(3)})
    with pytest.raises(OpError) as caught:
        check_reference(spec, problem, references)
    assert told in str(caught.value)


def test_a_state_need_not_be_checked() -> None:
    class Counted(KernelSpec):
        name = "counted"

        def operands(self, problem: Any) -> tuple[Operand, ...]:
            return Operand("seen", (1,), "int32", "state"), Operand("y", (3,), "float32", "output")

    check_reference(Counted(), Counted().problem({}), {"y": torch.zeros(3)})


MACHINE = (
    OSError(28, "No space left on device"),
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    UnsupportedProblemError("not this one"),
)
OF_THE_OP = (
    NameError("name 'torhc' is not defined"),
    KeyError("z"),
    TypeError("no"),
    ValueError("no"),
    ZeroDivisionError(),
    NotImplementedError(),
    RecursionError(),
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 0"),
)


@pytest.mark.parametrize("error", MACHINE, ids=lambda error: f"{type(error).__name__}: {error}"[:40])
def test_trouble_of_the_machine_or_the_gpu_is_no_mistake_of_the_op_s(tmp_path: Path, error: Exception) -> None:
    assert not is_mistake(error)
    with pytest.raises(type(error)) as caught, naming(loaded(tmp_path), "reference"):
        raise error
    assert caught.value is error


def test_what_triton_says_of_a_kernel_is_no_mistake_of_the_op_s() -> None:
    from triton.runtime.errors import OutOfResources

    assert not is_mistake(OutOfResources(300000, 232448, "shared memory"))


@pytest.mark.parametrize("error", OF_THE_OP, ids=lambda error: type(error).__name__)
def test_a_mistake_of_the_op_s_is_named(tmp_path: Path, error: Exception) -> None:
    spec = loaded(tmp_path)
    with pytest.raises(OpError, match=r"op double: its reference\(\) fails: ") as caught, naming(spec, "reference"):
        raise error
    assert caught.value.exit_code == 2

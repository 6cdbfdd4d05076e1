"""A pinned launch is compiled as the launch that it was made of, and kernels come out of files of any form."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import yaml

from fusetune.capture.from_source import KernelPlace, KernelSource, NoKernel, kernels_from_source
from fusetune.capture.pinned import ArgumentPinned, LaunchPinned, NotPinnedError, PinnedSpec, launch_pinned
from fusetune.compiler.jit_signature import jit_signature
from fusetune.core.config import NamedConfig
from fusetune.core.problem import NamedProblem
from fusetune.core.target import find_target
from fusetune.ops.refusals import CannotLaunchError
from fusetune.ops.spec import AbstractTensor, Launch, TileDescriptor
from fusetune.store.yaml_reader import parse_yaml_as
from tests.compile.test_jit_signature import careful, launch_of_strange, strange

PROBLEM = NamedProblem(n=1000)
CONFIG = NamedConfig(num_warps=2, num_stages=3)


class Held(KernelSource, frozen=True):
    """A kernel of this process."""

    kernel: Any = None

    def load(self) -> Any:
        return self.kernel


def again(launch: Launch, kernel: Any = None) -> Launch:
    """The launch as pins in a file give it back."""
    text = yaml.safe_dump(msgspec.to_builtins(launch_pinned(launch)))
    pinned = parse_yaml_as(text, Path("pins.yaml"), LaunchPinned)
    source = Held("", "", "", "a" * 16, kernel or launch.kernel)
    (made,) = PinnedSpec("op", source, {(PROBLEM, CONFIG): pinned}).launches(PROBLEM, CONFIG, {})
    return cast(Launch, made)


def test_a_launch_with_arguments_of_every_kind_is_specialized_as_before() -> None:
    for launch in (launch_of_strange(), launch_of_strange(n=16, one=32, scale=float("inf"), pair=(2**40, 1))):
        made = again(launch)
        assert jit_signature(made, 89) == jit_signature(launch, 89)
        assert (made.options["num_warps"], made.options["num_stages"]) == (2, 3)
    tiles = TileDescriptor(AbstractTensor((64, 64), "float32"), (16, 32), rounds=True)
    described = Launch(careful, (1,), {"x_ptr": tiles, "n": 4}, {"BLOCK": 16}, {"enable_fp_fusion": False}, by_jit=True)
    made = again(described)
    assert made.arguments["x_ptr"] == tiles
    assert made.options["enable_fp_fusion"] is False


def test_what_no_file_can_hold_is_not_pinned() -> None:
    for arguments in ({"left_out": strange}, {"pair": (1, object())}):
        with pytest.raises(NotPinnedError, match="which no file can hold"):
            launch_pinned(launch_of_strange(**arguments))
    with pytest.raises(NotPinnedError, match="dtype 'fp6' is not known"):
        launch_pinned(launch_of_strange(x_ptr=AbstractTensor((4,), "fp6")))


def test_a_kernel_that_takes_other_parameters_by_now_is_told() -> None:
    launch = Launch(careful, (1,), {"x_ptr": AbstractTensor((4,), "int32"), "n": 4}, {"BLOCK": 16}, by_jit=True)
    with pytest.raises(CannotLaunchError, match="has a parameter y_ptr by now, which nothing gives"):
        again(launch, strange)
    with pytest.raises(CannotLaunchError, match=r"no parameter \w+ any more"):
        again(launch_of_strange(), careful)


def test_an_argument_in_a_file_is_one_thing() -> None:
    wrong = (
        {"tensor": "float32", "type": "fp16"},
        {"aligned": False},
        {"tensor": "float32", "size": 3},
        {"tensor": "x"},
    )
    for plain in wrong:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(plain, ArgumentPinned)


@pytest.mark.parametrize("name", ["torch.hub", "torch.no_such", "os.system", "fp17"])
def test_a_type_in_a_file_names_a_dtype_and_nothing_else(name: str) -> None:
    pinned = launch_pinned(launch_of_strange())
    other = LaunchPinned({**pinned.arguments, "KIND": ArgumentPinned(type=name)})
    spec = PinnedSpec("op", Held("", "", "", "a" * 16, strange), {(PROBLEM, CONFIG): other})
    with pytest.raises(CannotLaunchError, match=r"no dtype"):
        spec.launches(PROBLEM, CONFIG, {})


HEAD = "import triton\nimport triton.language as tl\n"
BODY = "    at = tl.arange(0, 16)\n    tl.store(x_ptr + at, at * SCALE)\n"
FILES = {
    # Called as a module of Python's own; it asks for a GPU, and ends in what must not be run.
    "profile.py": HEAD
    + "import torch\n"
    + "SCALE = tl.constexpr(torch.cuda.get_device_properties(0).multi_processor_count)\n"
    + f"@triton.jit\ndef script(x_ptr):\n{BODY}"
    + "script[(1,)](torch.empty(16, device='cuda'))\nraise SystemExit('it was run')\n",
    "package/__init__.py": "",
    "package/numbers.py": "SCALE = 7\n",
    "package/inner/__init__.py": "",
    "package/inner/kernels.py": "from __future__ import annotations\n"
    + HEAD
    + "from ..numbers import *\n"
    + f"class Kernels:\n    @staticmethod\n    @triton.jit\n    def held(x_ptr):\n{BODY.replace('    ', '        ')}"
    + "SCALE = tl.constexpr(SCALE)\n",
    "made.py": HEAD
    + "SIZES = []\nfor size in (1, 2):\n    SIZES.append(size)\n"
    + "def configs(): return [triton.Config({}, num_warps=size) for size in SIZES]\n"
    + f"SCALE = tl.constexpr(len(SIZES))\n@triton.autotune(configs(), key=[])\n@triton.jit\ndef tuned(x_ptr):\n{BODY}"
    + f"def around():\n    @triton.jit\n    def inside(x_ptr):\n{BODY.replace('    ', '        ')}    return inside\n"
    + "TABLE = {'a': open}\n@triton.jit\ndef closed(x_ptr):\n    tl.store(x_ptr, TABLE['a'])\n"
    + "plain = 3\n",
    "broken.py": "def half(:\n",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, KernelSource | NoKernel]:
    folder = tmp_path_factory.mktemp("sources")
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    places = [
        ("profile:script", "profile.py"),
        ("package.inner.kernels:Kernels.held", "package/inner/kernels.py"),
        ("made:tuned", "made.py"),
        ("made:around.<locals>.inside", "made.py"),
        ("made:closed", "made.py"),
        ("made:plain", "made.py"),
        ("broken:half", "broken.py"),
    ]
    wanted = [KernelPlace(kernel, str(folder / file)) for kernel, file in places]
    made = kernels_from_source(wanted, tmp_path_factory.mktemp("made"), find_target("rtx4090"))
    return {one.kernel.partition(":")[2]: kernel for one, kernel in made.items()}


@pytest.mark.parametrize(("name", "scale"), [("script", "128"), ("Kernels.held", "7"), ("tuned", "2")])
def test_a_kernel_comes_out_of_its_file_with_what_it_needs_and_nothing_is_run(
    found: dict[str, KernelSource | NoKernel], name: str, scale: str
) -> None:
    kernel = found[name]
    assert isinstance(kernel, KernelSource), kernel
    assert kernel.load().arg_names == ["x_ptr"]
    texts = [path.read_text(encoding="utf-8") for path in Path(kernel.folder).rglob("*.py")]
    assert any(f"SCALE = _kept_tl.constexpr({scale})" in text for text in texts)


@pytest.mark.parametrize(
    ("name", "told", "gone", "never"),
    [
        ("around.<locals>.inside", "stands inside a function", False, True),
        ("closed", "it uses TABLE, a dict, which only the program has", False, True),
        ("plain", "has no kernel plain any more", True, False),
        ("half", "is no Python that can be read, line 1", False, False),
    ],
)
def test_a_kernel_that_cannot_be_had_says_why(
    found: dict[str, KernelSource | NoKernel], name: str, told: str, gone: bool, never: bool
) -> None:
    why = found[name]
    assert isinstance(why, NoKernel)
    assert told in why.why
    assert (why.gone, why.never) == (gone, never)

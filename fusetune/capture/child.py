"""The process in which a program is looked at: `python -m fusetune.capture.child REQUEST ANSWER`.

The request and the answer are files of JSON. What the program prints goes where it would go. Exit code 6 where the
program fails; the answer is written all the same, with the launches seen so far. Exit code 2, and the reason as text in
ANSWER with the suffix of MISNAMED instead, where there is no such function or its arguments make no sense. Exit code 3,
and why in ANSWER with the suffix of TROUBLE, where the machine kept a kernel of the program from being compiled.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec

from fusetune.capture.answers import write_answer
from fusetune.capture.cases import KnobSeen, Looked
from fusetune.capture.keeping import MOST_CASES, Keeper
from fusetune.capture.launches import before_of
from fusetune.capture.programs import Program, run_program
from fusetune.capture.watch import Understood, Watch
from fusetune.core.brief import brief_error
from fusetune.core.target import find_target
from fusetune.core.trouble import Trouble, trouble_of
from fusetune.errors import EXIT_INCONCLUSIVE, EXIT_INTERRUPTED, EXIT_OK, EXIT_PROGRAM, EXIT_USAGE, UsageError
from fusetune.ops.arguments import told

QUOTA_BYTES: Final = 8 << 30
"""What the storages of one run take at most, unless said otherwise."""
MISNAMED: Final = ".misnamed"
TROUBLE: Final = ".trouble"
_OURS: Final = str(Path(__file__).resolve().parents[1])
_COMPILER: Final = tuple(
    part.replace("/", os.sep) for part in ("/triton/compiler/", "/triton/backends/", "/triton/runtime/cache.py")
)
"""Where an error of Triton's compiler, of its tools and of its cache comes by."""


class Request(msgspec.Struct, frozen=True):
    """What to look at. `target` is the GPU to compile for where none is to be used.

    `keep` is the folder to keep cases in, at most `most` of them and `quota` bytes of storages; with `exact` the large
    ones of floats are kept with all their bytes, too.
    """

    program: Program
    target: str | None = None
    keep: str | None = None
    exact: bool = False
    quota: int = QUOTA_BYTES
    most: int = MOST_CASES


def main() -> int:
    """Run the program and write down what it launches; interrupted before or after, it ends without a word."""
    try:
        return _main()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _main() -> int:
    request = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Request)
    answer = Path(sys.argv[2])
    began = time.monotonic()
    watch = Watch(understand, timed=request.target is None, keeper=_keeper(request))
    failed: str | None = None
    with contextlib.ExitStack() as stack:
        if request.target is not None:
            from fusetune.capture.stand_in import stand_in

            stack.enter_context(stand_in(find_target(request.target)))
        else:
            from fusetune.capture.together import compiled_together
            from fusetune.capture.trials import quick_trials

            stack.enter_context(compiled_together())
            stack.enter_context(quick_trials())
        watch.install()
        stack.callback(watch.remove)
        try:
            with _leaving(answer, watch, request):
                run_program(request.program)
        except SystemExit as error:
            failed = None if error.code in {None, 0} else f"it ended with exit code {error.code}"
        except BaseException as error:  # noqa: BLE001 - a KeyboardInterrupt, too, is the program's end
            if isinstance(error, UsageError) and _frames(error) is None:
                answer.with_suffix(MISNAMED).write_text(str(error), encoding="utf-8")
                return EXIT_USAGE
            trouble = _trouble_of_compiling(error)
            if trouble is not None:
                answer.with_suffix(TROUBLE).write_bytes(msgspec.json.encode(trouble))
                return EXIT_INCONCLUSIVE
            print_failure(error)
            failed = brief_error(error)
        write_answer(answer, _looked(watch, request, time.monotonic() - began, failed))
    return EXIT_OK if failed is None else EXIT_PROGRAM


def understand(
    kernel: Any,
    bound: Mapping[str, Any],
    grid: Any,
    resolved: tuple[int, ...],
    options: Mapping[str, Any],
    frame: Any,
    compiled: Any,
    proposals: Sequence[Mapping[str, Any]],
    heuristics: Mapping[str, Any] = {},
) -> dict[str, Any]:
    """What may vary of a launch and why, what its grid follows, and what the kernel does to its tensors."""
    from fusetune.capture.grids import rule_of
    from fusetune.capture.idle import idle_programs
    from fusetune.capture.knobs import knobs_of
    from fusetune.capture.left_behind import left_behind
    from fusetune.capture.roles import roles_of
    from fusetune.capture.sites import site_of
    from fusetune.capture.work import work_of

    constants = {one.name: bound[one.name] for one in kernel.params if one.is_constexpr and one.name in bound}
    rule = rule_of(grid, resolved, bound, constants, kernel=kernel, frame=frame)
    launched = {**before_of(compiled), **options}
    knobs = knobs_of(kernel, bound, constants, rule, launched, proposals=proposals, heuristics=heuristics)
    found: dict[str, Any] = {
        "grid_kind": rule.kind,
        "grid_why": rule.why,
        "site": site_of(frame, kernel, constants, rule, proposals, heuristics),
        "knobs": tuple(
            KnobSeen(knob.name, told(knob.value), knob.varies, knob.reason, tuple(map(told, knob.values)), knob.again)
            for knob in knobs
        ),
    }
    with contextlib.suppress(AttributeError, KeyError, ValueError):  # a form of TTIR that is not known: no roles
        roles = roles_of(compiled)
        found["roles"] = {name: role.does for name, role in roles.items()}
        found["tables"] = {name: role.behind for name, role in roles.items() if role.table}
        found["unsure"] = tuple(name for name, role in roles.items() if not role.sure)
    with contextlib.suppress(AttributeError, KeyError, ValueError):
        found["work"] = work_of(compiled, resolved, bound)
    idle = idle_programs(kernel, resolved, bound)
    asked = left_behind(frame, kernel, constants, options, before_of(compiled)) if frame is not None else ()
    found["findings"] = (*asked, *([idle] if idle is not None else []))
    found["understood"] = Understood(rule, knobs)
    return found


def _keeper(request: Request) -> Keeper | None:
    if request.keep is None:
        return None
    return Keeper(
        Path(request.keep),
        exact=request.exact,
        quota_bytes=request.quota,
        program=request.program.told(),
        most=request.most,
        reads=request.target is None,
    )


def _looked(watch: Watch, request: Request, seconds: float, failed: str | None) -> Looked:
    gpu = None
    if request.target is None:
        torch = sys.modules.get("torch")
        gpu = torch.cuda.get_device_name() if torch is not None and torch.cuda.is_initialized() else None
    kept = request.keep if request.keep is not None and Path(request.keep).is_dir() else None
    return watch.looked(compiled_for=request.target, gpu=gpu, seconds=round(seconds, 2), failed=failed, kept=kept)


@contextlib.contextmanager
def _leaving(answer: Path, watch: Watch, request: Request) -> Iterator[None]:
    """What a program that leaves by os._exit has launched is written down, too."""
    leave = os._exit

    def left(code: int) -> None:
        with contextlib.suppress(Exception):
            failed = None if code == 0 else f"it left by os._exit({code})"
            write_answer(answer, _looked(watch, request, 0.0, failed))
        leave(code)

    os._exit = left  # type: ignore[assignment]
    try:
        yield
    finally:
        os._exit = leave


def print_failure(error: BaseException) -> None:
    """The program's own traceback: without the frames of what runs it."""
    traceback.print_exception(type(error), error, _frames(error))


def _trouble_of_compiling(error: BaseException) -> Trouble | None:
    """What of the machine kept a kernel of the program from being compiled; None where it is the program that failed.

    What the program itself cannot read or write is its own, and so is what the GPU's driver refuses.
    """
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    if "[CUDA]" in str(error) or not any(part in file for file in files for part in _COMPILER):
        return None
    return trouble_of(error)


def _frames(error: BaseException) -> TracebackType | None:
    """The program's own frames; None where the error comes from what runs it."""
    frames = error.__traceback__
    while frames is not None and _is_ours(frames):
        frames = frames.tb_next
    return frames


def _is_ours(frames: TracebackType) -> bool:
    name = frames.tb_frame.f_code.co_filename
    return name.startswith((_OURS, "<frozen ")) or Path(name).name in {"runpy.py", "contextlib.py"}


if __name__ == "__main__":
    sys.exit(main())

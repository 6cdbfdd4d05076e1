"""The process in which a program is run again: `python -m fusetune.capture.again_child`.

It loads torch and triton, and reads two lines: the file of the request, JSON of an AgainRequest, and the one to write
the answer to, a Ran. Exit code 6 where the program fails.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from fusetune.capture.again import AgainRequest, Ran
from fusetune.capture.answers import write_answer
from fusetune.capture.applying import Applier
from fusetune.capture.child import print_failure
from fusetune.capture.gpu_share import GpuTime, profiled
from fusetune.capture.overlay import Overlay
from fusetune.capture.programs import run_program
from fusetune.capture.repeated import Repeated, repeated
from fusetune.capture.results import Difference, Results, difference, have_tensors, load, on_cpu, save
from fusetune.core.brief import brief_error
from fusetune.core.target import find_target
from fusetune.core.trouble import trouble_of
from fusetune.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_PROGRAM

_TIMED_CALLS: Final = 20
_TIMED_S: Final = 1.0
"""Of calls whose launches are timed one by one: so many, or so long."""


def main() -> int:
    """Run the program and write down what it came to."""
    asked = _asked()
    if asked is None:
        return EXIT_INTERRUPTED
    ran = ran_of(msgspec.json.decode(asked[0].read_bytes(), type=AgainRequest))
    write_answer(asked[1], ran)
    return EXIT_OK if ran.failed is None else EXIT_PROGRAM


def ran_of(request: AgainRequest) -> Ran:
    """Run what is asked in this process; whatever the program ends with is in the answer."""
    began = time.monotonic()
    applier = Applier(request.changes, apply=request.apply, held=request.held)
    with contextlib.ExitStack() as stack:
        if request.target is not None:
            from fusetune.capture.stand_in import stand_in

            stack.enter_context(stand_in(find_target(request.target)))
        overlay = Overlay(request.texts)
        overlay.install()
        stack.callback(overlay.remove)
        applier.install()
        stack.callback(applier.remove)
        try:
            ran = _ran(request, applier)
        except SystemExit as error:
            failed = None if error.code in {None, 0} else f"it ended with exit code {error.code}"
            ran = _of_whole(applier, failed)
        except BaseException as error:  # noqa: BLE001 - a KeyboardInterrupt, too, is the program's end
            print_failure(error)
            ran = _of_whole(applier, brief_error(error), _machine_s(error))
    return msgspec.structs.replace(ran, wall_s=round(time.monotonic() - began, 3))


def _asked() -> tuple[Path, Path] | None:
    """The files of the request and of the answer; None where whoever asks is gone."""
    try:
        import torch  # noqa: F401
        import triton  # noqa: F401

        request, answer = (sys.stdin.readline().strip() for _ in range(2))
    except KeyboardInterrupt:
        return None
    return (Path(request), Path(answer)) if request and answer else None


def _ran(request: AgainRequest, applier: Applier) -> Ran:
    if request.profile:
        return Ran(gpu=_profiled(request, applier))
    if request.target is not None or request.program.kind in {"script", "module"}:
        applier.timing = _has_gpu(request)
        run_program(request.program)
        return _of_whole(applier, None)
    with repeated(request.program) as program:
        return _repeatedly(request, applier, program)


def _profiled(request: AgainRequest, applier: Applier) -> GpuTime:
    if request.program.kind in {"script", "module"}:
        return profiled(lambda: run_program(request.program), applier.kernel_names)
    with repeated(request.program) as program:
        program.first_call()  # It compiles, and lets autotuners time.
        return profiled(program.call, applier.kernel_names)


def _machine_s(error: BaseException) -> str | None:
    """Why an error says nothing of the program; None of its own ones, and where it asks a GPU for too much memory."""
    if type(error).__name__ == "OutOfMemoryError":
        return None
    trouble = trouble_of(error)
    return trouble.detail if trouble is not None else None


def _of_whole(applier: Applier, failed: str | None, machine: str | None = None) -> Ran:
    total = applier.all_us() if failed is None else None
    kernels_ms = None if total is None else total / 1e3
    return Ran(
        failed=failed,
        machine=machine,
        launched=applier.launched(),
        launches=applier.launches,
        others=applier.others,
        kernels_ms=kernels_ms,
    )


def _repeatedly(request: AgainRequest, applier: Applier, program: Repeated) -> Ran:
    program.first_call()  # It compiles, and lets autotuners time.
    applier.begin_counting()
    results = program.results()
    ran, counted = Ran(launches=applier.launches, others=applier.others), applier.launched()
    ran = _compared(request, program, results, ran)
    del results
    forward_ms = kernels_ms = None
    if _has_gpu(request):
        calls = _time_launches(applier, program)
        counted = tuple(
            msgspec.structs.replace(one, us=timed.us) for one, timed in zip(counted, applier.launched(), strict=True)
        )
        total = applier.all_us()
        kernels_ms = None if total is None else total / 1e3 / calls
        forward_ms = program.forward_ms()
    return msgspec.structs.replace(ran, launched=counted, forward_ms=forward_ms, kernels_ms=kernels_ms)


def _time_launches(applier: Applier, program: Repeated) -> int:
    """Call with each launch timed; how often."""
    applier.timing = True
    until = time.monotonic() + _TIMED_S
    calls = 0
    while calls < _TIMED_CALLS and (calls == 0 or time.monotonic() < until):
        program.call()
        calls += 1
    applier.timing = False
    return calls


def _compared(request: AgainRequest, program: Repeated, results: Results, ran: Ran) -> Ran:
    """The results beside those of another run and of the reference; written down where that is asked for."""
    found: dict[str, Any] = {"gives": have_tensors(results)}
    own, inputs = _below(results, "result"), _below(results, "inputs")
    if request.against is not None:
        other = load(Path(request.against))
        found["difference"] = _difference(results, other)
        if inputs:
            found["inputs"] = _difference(inputs, _below(other, "inputs"))
        del other
    same = found.get("difference")
    if request.reference is not None and same is not None and same.is_none():
        found["reference"] = request.reference  # Making its model can take longer than all that is timed.
    elif program.has_reference:
        try:
            expected = program.of_reference(own)
            found["reference"] = _difference(own, expected or {})
        except Exception as error:  # noqa: BLE001 - the reference is somebody's code, and the program is asked without
            found["no_reference"] = brief_error(error)
    if request.save is not None:
        save(results, Path(request.save))
    return msgspec.structs.replace(ran, **found)


def _below(results: Results, name: str) -> Results:
    return {place: one for place, one in results.items() if place.partition(".")[0] == name}


def _difference(results: Results, expected: Results) -> Difference:
    """Compared where the results are, or in the CPU's memory where the GPU has no room for that."""
    import torch

    try:
        return difference(results, expected)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return difference(on_cpu(results), on_cpu(expected))


def _has_gpu(request: AgainRequest) -> bool:
    import torch

    return request.target is None and torch.cuda.is_available()


if __name__ == "__main__":
    sys.exit(main())

"""Every error that fusetune raises on purpose, with the exit code that the command line gives it.

    FusetuneError                 1..6, see below
    +-- UsageError                2   an option, an argument or a shape that cannot be used; a ValueError, too
    |   +-- UnknownTargetError    2   a GPU name that the target table does not hold
    |   +-- UnsupportedProblemError 2 a problem that the op does not compute
    |   +-- OpError               2   an op of a user's own whose code fails, or describes what cannot be launched
    |   +-- ChannelsError         2   an x whose dim 1 is not the channels of a module; a RuntimeError, too
    |   +-- ConfigFileError       2   a YAML file that cannot be read, parsed or believed
    |       +-- NewerSchemaError  2   a file written by a newer fusetune
    |   +-- JournalError          2   a run's journal that cannot be read
    |   +-- MissingPackageError   2   torch or triton is not installed; an ImportError, too
    |   +-- CaptureError          2   a capture that is not there, damaged, or cannot be launched again
    +-- MissingConfigError        2   strict look-up found no entry
    +-- NoisyMachineError         3   the machine is too noisy to decide anything
    +-- NotCheckableError         3   a captured launch that gives another result each time: none can be compared
    +-- NoCandidateError          3   a sweep or a prediction in which nothing but BASELINE can run
    +-- MachineError              3   a full disk, a killed process, no memory: nothing follows for any kernel
    |   +-- NothingTunedError     4   the same in a sweep or a prediction, which then writes nothing
    +-- NoUsableGpuError          4   no GPU, or another one than the file's
    +-- CompileError              5   a kernel that had to compile did not
    +-- WrongResultError          5   a kernel that had to be right is not
    +-- ProgramError              6   the user's own program failed
    +-- MeasurementError          4   the worker that owns the GPU could not do its work

A message says what was wrong, where, and what to do next. `fusetune` has each of them by its name.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_OK = 0
"""Done; keep and revert are both answers."""
EXIT_REGRESSION = 1
"""The gate found a regression."""
EXIT_USAGE = 2
"""A mistake in the command, or a file that cannot be read, written or believed."""
EXIT_INCONCLUSIVE = 3
"""No verdict: noise, results that cannot be compared, nothing but BASELINE that can run, a pin that is missing among
others, or trouble of the machine, such as a full disk, no memory or no more processes."""
EXIT_NO_GPU = 4
"""No usable GPU, or another one than the file's."""
EXIT_WRONG_RESULT = 5
"""A kernel gave wrong results, or one that had to compile did not."""
EXIT_PROGRAM = 6
"""Your own program failed by itself."""
EXIT_INTERNAL = 70
"""A fault of fusetune itself, or of something that nobody foresaw, in one line; `--debug` shows the traceback. It is
EX_SOFTWARE of sysexits.h."""
EXIT_HANGUP = 129
"""Ended by SIGHUP, as when a terminal closes. `sweep` and `tune` go on where they stopped."""
EXIT_INTERRUPTED = 130
"""Ended by Ctrl-C. `sweep` and `tune` go on where they stopped when the same command is given again."""
EXIT_BROKEN_PIPE = 141
"""Nobody reads the output any more, as in `fusetune report | head -1`."""
EXIT_TERMINATED = 143
"""Ended by SIGTERM, as by `kill` or the time limit of a job. `sweep` and `tune` go on where they stopped."""


class FusetuneError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns."""

    exit_code: ClassVar[int] = EXIT_USAGE


class UsageError(FusetuneError, ValueError):
    """An option, an argument or a tensor that cannot be used as it is; a ValueError, too, as Python has it."""


class UnknownTargetError(UsageError):
    """A GPU name that the table of targets does not hold."""


class UnsupportedProblemError(UsageError):
    """A problem (dtype, size, or another value) that the op does not compute; `names` are the values at fault."""

    def __init__(self, message: str, *names: str) -> None:
        super().__init__(message)
        self.names = names


class OpError(UsageError):
    """A mistake in an op's own code: a member of its KernelSpec fails, or describes what cannot be launched."""


class ChannelsError(UsageError, RuntimeError):
    """An x of three dimensions whose dim 1 is not the channels of a module; PyTorch raises RuntimeError there."""


class ConfigFileError(UsageError):
    """A YAML file that cannot be read, parsed or believed."""


class NewerSchemaError(ConfigFileError):
    """A YAML file written by a newer fusetune than this one."""


class JournalError(UsageError):
    """The journal of a run that cannot be read."""


class MissingPackageError(UsageError, ImportError):
    """A package that a call needs, torch or triton, is not installed."""


class CaptureError(UsageError):
    """A capture that is not there, cannot be read, or cannot be launched again."""


class MissingConfigError(FusetuneError):
    """A strict look-up found no entry that may be used."""


class NoisyMachineError(FusetuneError):
    """The baseline, timed against itself, did not come out equal: nothing can be decided here."""

    exit_code = EXIT_INCONCLUSIVE


class NotCheckableError(FusetuneError):
    """A captured launch whose own results differ, or are not those of the program: nothing can be compared with it."""

    exit_code = EXIT_INCONCLUSIVE


class NoCandidateError(FusetuneError):
    """Every candidate but BASELINE was rejected or gave no right result: there is nothing to choose from.

    `tried` counts them, and `failures` counts them by reason.
    """

    exit_code = EXIT_INCONCLUSIVE

    def __init__(self, message: str, *, tried: int = 0, failures: dict[str, int] | None = None) -> None:
        super().__init__(message)
        self.tried, self.failures = tried, failures or {}


class MachineError(FusetuneError):
    """The machine did not let the work be done: disk, memory, time, a killed process.

    It says nothing about a kernel, and is never recorded as if it did.
    """

    exit_code = EXIT_INCONCLUSIVE


class NothingTunedError(MachineError):
    """A sweep or a prediction that the machine did not let come to an end: nothing was written."""

    exit_code = EXIT_NO_GPU


class NoUsableGpuError(FusetuneError):
    """There is no GPU here, or it is not the one that the file was measured on."""

    exit_code = EXIT_NO_GPU


class MeasurementError(FusetuneError):
    """The worker process that owns the GPU could not do what it was asked."""

    exit_code = EXIT_NO_GPU


class CompileError(FusetuneError):
    """A kernel that had to compile did not."""

    exit_code = EXIT_WRONG_RESULT


class WrongResultError(FusetuneError):
    """A kernel that had to be right gave wrong numbers."""

    exit_code = EXIT_WRONG_RESULT


class ProgramError(FusetuneError):
    """The user's own program failed by itself, and its kernels could not be looked at."""

    exit_code = EXIT_PROGRAM

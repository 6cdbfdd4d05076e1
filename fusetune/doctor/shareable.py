"""What may go into a file that is sent to others: nothing of it names a user, a host, a folder or a card."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fusetune.core.text import printable

A_PATH: Final = "(a path)"
AN_ID: Final = "(an id)"
A_USER: Final = "(the user)"
A_HOST: Final = "(this host)"

_IDS: Final = re.compile(r"(?:(?:GPU|MIG)-)?\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b")
"""UUIDs, as NVML and PyTorch write them."""
_PATHS: Final = re.compile(r"(?<![\w.)/])(?:~\w*/|/(?=[\w.@+~-]))[^\s'\",;:()]*")
"""What begins with a slash, or ~, and goes on; a slash within a word, as in driver/library, begins no path."""
_EVERYBODYS: Final = frozenset({"root", "localhost", "user", "nvidia", "triton", "cuda", "torch", "gpu", "linux"})
"""Names of users and hosts that say nothing of anybody, and are words besides."""
_PLATFORM: Final = re.compile(r"(?P<system>\w+-\d[\d.]*)(?P<build>.*?)(?P<rest>-[a-z]\w*(?:-with-[\w.]+)?)", re.ASCII)
"""What platform.platform() says on Linux: system and release, who built the kernel, processor and C library."""


def shareable(text: str) -> str:
    """The text on one line, with what names somebody replaced."""
    told = printable(text)
    for home in _homes():
        told = told.replace(home, "~")
    told = _PATHS.sub(A_PATH, _IDS.sub(AN_ID, told))
    for name, instead in _own_names():
        told = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", instead, told, flags=re.IGNORECASE)
    return told


def shareable_platform(text: str) -> str:
    """What `platform.platform()` says, without the name of a kernel's build, which may be a company's; WSL stays."""
    seen = _PLATFORM.fullmatch(text)
    if seen is None:
        return shareable(text)
    kept = "-WSL2" if "microsoft" in seen["build"].lower() else ""
    return shareable(f"{seen['system']}{kept}{seen['rest']}")


def _homes() -> Iterator[str]:
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home raises where there is none
    yield from (one for one in dict.fromkeys((home, os.path.realpath(home))) if len(one) > 1 and one.startswith(os.sep))


def _own_names() -> Iterator[tuple[str, str]]:
    """Each name of this user and this host, with what stands for it; long ones first, since one may hold another."""
    names = dict.fromkeys(_users(), A_USER) | dict.fromkeys(_hosts(), A_HOST)
    for name in sorted(names, key=len, reverse=True):
        if len(name) > 1 and name.lower() not in _EVERYBODYS:
            yield name, names[name]


def _users() -> Iterator[str]:
    with contextlib.suppress(KeyError, OSError):  # Of an id without a name, as in containers.
        yield getpass.getuser()
    yield from (os.environ[name] for name in ("USER", "LOGNAME", "SUDO_USER") if name in os.environ)
    yield from (Path(home).name for home in _homes())


def _hosts() -> Iterator[str]:
    for name in (platform.node(), os.environ.get("HOSTNAME", "")):
        yield name
        yield name.partition(".")[0]

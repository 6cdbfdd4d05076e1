"""An environment that has what a distribution declares and nothing else; its files are those of the one here.

Also a command, `python tests/support/declared_site.py ENVIRONMENT [EXTRA]...`, which links what an installed fusetune
declares into a virtual environment; `.ci/package` calls it.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME = "fusetune"
ROOT = Path(__file__).parents[2]


def required(requirements: Iterable[str], extras: Iterable[str] = ()) -> dict[str, Distribution]:
    """The installed distributions that these requirements ask for, and what those ask for, by name.

    Raises PackageNotFoundError for one that is not installed, AssertionError for one in a version that was not asked
    for.
    """
    found: dict[str, Distribution] = {}
    _add(requirements, {*extras}, found, set())
    return found


def _add(
    requirements: Iterable[str], extras: set[str], found: dict[str, Distribution], seen: set[tuple[str, str]]
) -> None:
    for requirement in map(Requirement, requirements):
        if requirement.marker and not any(requirement.marker.evaluate({"extra": one}) for one in ("", *extras)):
            continue
        name = canonicalize_name(requirement.name)
        asked = {(name, extra) for extra in ("", *requirement.extras)}
        if asked <= seen:
            continue
        seen |= asked
        installed = distribution(name)
        assert requirement.specifier.contains(installed.version, prereleases=True), (
            f"{requirement}: {installed.version}"
        )
        if name != NAME:
            found[name] = installed
        _add(installed.requires or (), {*requirement.extras}, found, seen)


def link(found: Iterable[Distribution], site: Path) -> None:
    """Make the files of these distributions importable from a folder, by links to them."""
    for one in found:
        for top in _tops(one):
            place = site / top.name
            if not place.exists():
                place.symlink_to(top)


def _tops(one: Distribution) -> Iterator[Path]:
    """The files and folders beside which a distribution was installed; scripts and compiled files are none."""
    names = {file.parts[0] for file in one.files or () if file.parts[0] not in {"..", "__pycache__"}}
    for name in sorted(names):
        top = Path(str(one.locate_file(name))).resolve()
        if top.suffix != ".pth":  # Their lines are carried out in every process.
            yield top


def make_environment(folder: Path) -> Path:
    """A virtual environment with nothing in it, not even pip; the path of its python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder / "bin" / "python"


def site_of(environment: Path) -> Path:
    """The folder of the packages of a virtual environment."""
    paths = {"base": str(environment), "platbase": str(environment)}
    return Path(sysconfig.get_path("purelib", vars=paths))


def serving_environment(folder: Path, *more: str) -> Path:
    """The python of an environment with this checkout and what its base declares, and what `more` names; no extra."""
    python = make_environment(folder)
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    link(required([*tomllib.loads(text)["project"]["dependencies"], *more]).values(), site_of(folder))
    (site_of(folder) / "checkout.pth").write_text(f"{ROOT}\n", encoding="utf-8")
    return python


def main(environment: str, *extras: str) -> None:
    """Link what the fusetune that is installed in an environment declares, with these extras, into it."""
    site = site_of(Path(environment))
    (installed,) = distributions(name=NAME, path=[str(site)])
    link(required(installed.requires or (), extras).values(), site)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""YAML text to ConfigFile: every mistake is told with its file, its line and its fix."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import msgspec
import yaml

from fusetune.errors import ConfigFileError, NewerSchemaError
from fusetune.store.migrations import STEPS, Step, migrate
from fusetune.store.schema import SCHEMA_VERSION, ConfigFile

try:
    from yaml import CSafeLoader as _SafeLoader
except ImportError:  # PyYAML built without libyaml: the same answers, slower
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]

T = TypeVar("T")

_TAG: Final = "tag:yaml.org,2002:"
_NUMBERS: Final = {
    f"{_TAG}int": re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)$"),
    f"{_TAG}float": re.compile(
        r"(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
}
"""YAML 1.1's numbers, but for those that nobody means: it would take 2:30 for 150, and 0064 for 52."""
_REPAIR: Final = "correct it, or move the file away and let `fusetune sweep` write a new one"


class _Loader(_SafeLoader):
    """Safe loading that refuses a key written twice, knows no octal numbers, and leaves dates as text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[tuple[str, str], yaml.Node] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            earlier = first.setdefault((key.tag, key.value), key)
            if earlier is not key:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r} is also on line {earlier.start_mark.line + 1}; keep one of the two",
                    problem_mark=key.start_mark,
                )
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, _NUMBERS.get(tag, pattern)) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in _SafeLoader.yaml_implicit_resolvers.items()
}


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    return int(text, 0 if text.lstrip("+-").startswith(("0b", "0x")) else 10)


_Loader.add_constructor(f"{_TAG}int", _whole_number)


class _WordLoader(_Loader):
    """The same, where every scalar is left as it is written; what is left empty, or is null, is None."""


_WordLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in {f"{_TAG}null", f"{_TAG}merge"}]
    for first, resolvers in _SafeLoader.yaml_implicit_resolvers.items()
}


def _as_written(loader: _Loader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


for _kind in ("int", "float", "bool", "timestamp"):
    _WordLoader.add_constructor(f"{_TAG}{_kind}", _as_written)


IMPLICIT_RESOLVERS: Final[Mapping[str, list[tuple[str, re.Pattern[str]]]]] = _Loader.yaml_implicit_resolvers
"""What an unquoted scalar with this first character may be instead of text: tags, each with its pattern."""


def read_text(path: Path) -> str:
    """The text of a file; ConfigFileError says why there is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        fix = "name a .yaml file" if path.is_dir() else "check that it exists and that you may read it"
        raise ConfigFileError(f"cannot read {path}: {error.strerror or error}; {fix}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigFileError(f"{path}, line {line}: not UTF-8 text: {error.reason}; save it as UTF-8") from error


def parse_config_file(text: str, path: Path, steps: Mapping[int, Step] = STEPS) -> ConfigFile:
    """The text of the file at `path` as types; `path` is for messages only.

    Raises ConfigFileError and NewerSchemaError as read_config_file does.
    """
    root, raw = _load(text, path)
    if not isinstance(raw, dict):
        found = "empty" if raw is None else f"a {type(raw).__name__}"
        raise ConfigFileError(f"{path}, line 1: the file is {found}, not a mapping with `schema: {SCHEMA_VERSION}`")
    raw = _current(raw, root, path, steps)
    try:
        file = msgspec.convert(raw, ConfigFile)
    except msgspec.ValidationError as error:
        _refuse(error, root, path)
    _refuse_repeated_problems(file, root, path)
    return file


def parse_yaml_as(text: str, path: Path, kind: type[T]) -> T:
    """The text of a YAML file other than a file of configs, as `kind`.

    Raises ConfigFileError, which names the file, the line and the fix.
    """
    root, raw = _load(text, path)
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        _refuse(error, root, path)


def load_words(text: str, path: Path) -> tuple[yaml.Node | None, Any]:
    """The node tree of somebody's YAML, and its mappings and lists of words, which the caller makes numbers of.

    Raises ConfigFileError, which names the file and, where there is one, the line.
    """
    return _load(text, path, _WordLoader, repair="correct it")


def _load(
    text: str, path: Path, kind: type[_Loader] = _Loader, *, repair: str = _REPAIR
) -> tuple[yaml.Node | None, Any]:
    """The node tree, which knows the lines, and the plain values made from it."""
    try:
        loader = kind(text)
        try:
            root = loader.get_single_node()
            return root, None if root is None else loader.construct_document(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigFileError(f"{path}{place}: not readable as YAML: {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigFileError(f"{path}, line {line}: not readable as YAML: {error.reason}; remove it") from error
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # PyYAML lets these through for a tag that its value does not fit (`!!int x`) and for very deep nesting.
        raise ConfigFileError(f"{path}: not readable as YAML: {type(error).__name__}: {error}; {repair}") from error


def _current(raw: dict[Any, Any], root: yaml.Node | None, path: Path, steps: Mapping[int, Step]) -> dict[Any, Any]:
    """`raw` at the current schema."""
    if "schema" not in raw:
        raise ConfigFileError(f"{path}, line 1: `schema` is missing; a file of today has `schema: {SCHEMA_VERSION}`")
    version = raw["schema"]
    line = _line(root, "$", "schema")
    if not isinstance(version, int) or isinstance(version, bool):
        raise ConfigFileError(f"{path}, line {line}: `schema` is {version!r}; write a number: {SCHEMA_VERSION}")
    if version > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"{path}, line {line}: written by a newer fusetune, schema {version}; "
            f"this one reads up to {SCHEMA_VERSION}: upgrade fusetune"
        )
    try:
        return migrate(raw, steps)
    except ConfigFileError as error:
        raise ConfigFileError(f"{path}, line {line}: {error}; {_REPAIR}") from error


def _refuse(error: msgspec.ValidationError, root: yaml.Node | None, path: Path) -> NoReturn:
    """Tell what msgspec found, with the line it is about and the fix."""
    what, _, where = str(error).partition(" - at ")
    place = re.search(r"\$[^`]*", where)
    steps_to = place.group() if place else "$"
    unknown = re.search(r"unknown field `(.*)`", what)
    if unknown:
        fix = "correct its spelling or remove it"
    elif re.match(r"Expected `str`, got `(int|float|bool)`", what):
        fix = "put the value in quotes"
    else:
        fix = _REPAIR
    line = _line(root, steps_to, unknown.group(1) if unknown else None)
    raise ConfigFileError(f"{path}, line {line}: {what} at {steps_to}; {fix}") from error


def _refuse_repeated_problems(file: ConfigFile, root: yaml.Node | None, path: Path) -> None:
    first: dict[Any, int] = {}
    for index, entry in enumerate(file.entries):
        earlier = first.setdefault(entry.problem, index)
        if earlier != index:
            lines = [_line(root, f"$.entries[{number}]") for number in (earlier, index)]
            raise ConfigFileError(
                f"{path}, line {lines[1]}: $.entries[{index}] and $.entries[{earlier}] (line {lines[0]}) are both for "
                f"{entry.problem.describe()}; remove one of the two"
            )


def _line(root: yaml.Node | None, place: str, key: str | None = None) -> int:
    """The line of the value at a place such as `$.entries[0].config`, or of `key` in the mapping there.

    Where the tree does not go that far, as after a migration or a merge key, the line of the last node on the way.
    """
    node = root
    for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", place):
        found = _child(node, name) if name else None
        if index and isinstance(node, yaml.SequenceNode) and int(index) < len(node.value):
            node = node.value[int(index)]
        elif found is not None:
            node = found[1]
        else:
            break
    else:
        found = _child(node, key) if key is not None else None
        if found is not None:
            node = found[0]
    return 1 if node is None else node.start_mark.line + 1


def _child(node: yaml.Node | None, name: str) -> tuple[yaml.Node, yaml.Node] | None:
    """The key and the value named `name` in a mapping."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == name:
                return key, value
    return None

"""YAML text to ConfigFile: every mistake is told with its file, its line and its fix."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import msgspec
import yaml

from fusetune.core.brief import brief, brief_value
from fusetune.core.text import SPEC_PLACE
from fusetune.errors import ConfigFileError, NewerSchemaError
from fusetune.ops.approved import note_place, place_from_file
from fusetune.store.migrations import STEPS, Step, migrate
from fusetune.store.regular import read_regular, reason
from fusetune.store.schema import SCHEMA_VERSION, ConfigFile, Entry
from fusetune.store.typed import decoding_of, one_place

try:
    from yaml import CSafeLoader as _SafeLoader
except ImportError:  # PyYAML built without libyaml: the same answers, slower
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]

T = TypeVar("T")

_TAG: Final = "tag:yaml.org,2002:"
_INT_TAG: Final = f"{_TAG}int"
_FLOAT_TAG: Final = f"{_TAG}float"
MOST_BYTES: Final = 16 << 20
"""Of a file, which is some 18,000 entries."""
MOST_EVENTS: Final = 750_000
"""What the parser may find in a text, which is some 5,000 entries of a sweep, 300 MB of memory and five seconds."""
_FEW_BYTES: Final = 256_000
"""Up to this size a text cannot hold so much, and is not looked through first."""
_MOST_DIGITS: Final = 64
"""Of a number: Python refuses whole ones from 4,301 on, and takes minutes for some with colons (base 60)."""
_MOST_MESSAGE: Final = 400

Unfit = Callable[[str, Entry], str | None]
"""Given the name of an op and an entry, why it cannot be used at all; None where it can."""

_NUMBERS: Final = {
    _INT_TAG: re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)$"),
    _FLOAT_TAG: re.compile(
        r"(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
}
"""YAML 1.1's numbers, but for those that nobody means: it would take 2:30 for 150, and 0064 for 52."""
_REPAIR: Final = "correct it, or move the file away and let `fusetune sweep` write a new one"


class _Loader(_SafeLoader):
    """Safe loading that refuses a key written twice, knows no octal numbers, and leaves dates as text.

    Aliases and merge keys cannot make much of little: each mapping that is merged counts as often as it is.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._pairs_left = len(text)  # none is written in less than two characters

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        self._pairs_left -= len(node.value)
        if self._pairs_left < 0:
            raise yaml.constructor.ConstructorError(
                problem="its merge keys (<<) make more of it than is written; write it out",
                problem_mark=node.start_mark,
            )

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        if len(node.value) > _MOST_DIGITS:
            raise yaml.constructor.ConstructorError(
                problem=f"a number of {len(node.value)} characters", problem_mark=node.start_mark
            )
        is_whole = node.tag == _INT_TAG
        return self.construct_yaml_int(node) if is_whole else self.construct_yaml_float(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[tuple[str, str], yaml.Node] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            earlier = first.setdefault((key.tag, key.value), key)
            if earlier is not key:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {brief_value(key.value)} is also on line {earlier.start_mark.line + 1}; "
                    "keep one of the two",
                    problem_mark=key.start_mark,
                )
        return super().construct_mapping(node, deep=deep)


_Loader.add_constructor(_INT_TAG, _Loader.construct_number)
_Loader.add_constructor(_FLOAT_TAG, _Loader.construct_number)
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
    """The text of a file; ConfigFileError says why there is none, as for a pipe, a folder, too large a file."""
    try:
        data = read_regular(path, MOST_BYTES)
    except OSError as error:
        fix = (
            "name a .yaml file"
            if isinstance(error, IsADirectoryError)
            else "check that it exists and that you may read it"
        )
        raise ConfigFileError(f"cannot read {brief(path)}: {reason(error)}; {fix}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigFileError(
            f"{brief(path)}, line {line}: not UTF-8 text: {error.reason}; save it as UTF-8"
        ) from error


def parse_config_file(
    text: str, path: Path, steps: Mapping[int, Step] = STEPS, *, unfit: Unfit | None = None
) -> ConfigFile:
    """The text of the file at `path` as types; `path` is for messages only. `unfit` may have an objection to an entry.

    Raises ConfigFileError and NewerSchemaError as read_config_file does.
    """
    root, raw = _load(text, path)
    if not isinstance(raw, dict):
        found = "empty" if raw is None else f"a {type(raw).__name__}"
        raise ConfigFileError(
            f"{brief(path)}, line 1: the file is {found}, not a mapping with `schema: {SCHEMA_VERSION}`"
        )
    raw = _current(raw, root, path, steps)
    op, spec = raw.get("op"), raw.get("spec")
    if (
        isinstance(op, str) and isinstance(spec, str) and re.match(SPEC_PLACE, spec)
    ):  # before the types of the op are asked for
        note_place(op, place_from_file(spec, path))
    try:
        file = msgspec.convert(raw, ConfigFile, dec_hook=decoding_of(raw.get("op")))
    except msgspec.ValidationError as error:
        _refuse(error, root, path)
    _refuse_repeated_problems(file, root, path)
    if unfit is not None:
        _refuse_unfit(file, root, path, unfit)
    return file


def parse_yaml_as(text: str, path: Path, kind: type[T]) -> T:
    """The text of a YAML file other than a file of configs, as `kind`.

    Raises ConfigFileError, which names the file, the line and the fix.
    """
    root, raw = _load(text, path)
    try:
        op = raw.get("op") if isinstance(raw, dict) else None
        return msgspec.convert(raw, kind, dec_hook=decoding_of(op))
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
    told = brief(path)
    try:
        if len(text) > _FEW_BYTES:
            _refuse_endless(text)
        loader = kind(text)
        try:
            root = loader.get_single_node()
            return root, None if root is None else loader.construct_document(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        why = brief(error.problem or error.context, _MOST_MESSAGE)
        raise ConfigFileError(f"{told}{place}: not readable as YAML: {why}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigFileError(f"{told}, line {line}: not readable as YAML: {error.reason}; remove it") from error
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # PyYAML lets these through for a tag that its value does not fit (`!!int x`) and for very deep nesting.
        why = f"{type(error).__name__}: {brief(error, _MOST_MESSAGE)}"
        raise ConfigFileError(f"{told}: not readable as YAML: {why}; {repair}") from error


def _refuse_endless(text: str) -> None:
    """Raise YAMLError where a text holds more than there should be memory for; finding out takes none."""
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if count > MOST_EVENTS:
            raise yaml.MarkedYAMLError(
                problem=f"more than {MOST_EVENTS} values and marks; keep fewer entries",
                problem_mark=event.start_mark,  # type: ignore[arg-type]  # libyaml's, which is as good
            )


def _current(raw: dict[Any, Any], root: yaml.Node | None, path: Path, steps: Mapping[int, Step]) -> dict[Any, Any]:
    """`raw` at the current schema."""
    if "schema" not in raw:
        raise ConfigFileError(
            f"{brief(path)}, line 1: `schema` is missing; a file of today has `schema: {SCHEMA_VERSION}`"
        )
    version, told = raw["schema"], brief(path)
    line = _line(root, "$", "schema")
    if not isinstance(version, int) or isinstance(version, bool):
        raise ConfigFileError(
            f"{told}, line {line}: `schema` is {brief_value(version)}; write a number: {SCHEMA_VERSION}"
        )
    if version > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"{told}, line {line}: written by a newer fusetune, schema {brief_value(version)}; "
            f"this one reads up to {SCHEMA_VERSION}: upgrade fusetune"
        )
    try:
        return migrate(raw, steps)
    except ConfigFileError as error:
        raise ConfigFileError(f"{told}, line {line}: {brief(error, _MOST_MESSAGE)}; {_REPAIR}") from error


def _refuse(error: msgspec.ValidationError, root: yaml.Node | None, path: Path) -> NoReturn:
    """Tell what msgspec found, with the line it is about and the fix."""
    told = one_place(error)
    what, _, where = told.rpartition(" - at ") if " - at " in told else (told, "", "")
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
    raise ConfigFileError(
        f"{brief(path)}, line {line}: {brief(what, _MOST_MESSAGE)} at {brief(steps_to)}; {fix}"
    ) from error


def _refuse_repeated_problems(file: ConfigFile, root: yaml.Node | None, path: Path) -> None:
    first: dict[Any, int] = {}
    for index, entry in enumerate(file.entries):
        earlier = first.setdefault(entry.problem, index)
        if earlier != index:
            lines = [_line(root, f"$.entries[{number}]") for number in (earlier, index)]
            raise ConfigFileError(
                f"{brief(path)}, line {lines[1]}: $.entries[{index}] and $.entries[{earlier}] (line {lines[0]}) are "
                f"both for {entry.problem.describe()}; remove one of the two"
            )


def _refuse_unfit(file: ConfigFile, root: yaml.Node | None, path: Path, unfit: Unfit) -> None:
    for index, entry in enumerate(file.entries):
        why = unfit(file.op, entry)
        if why is not None:
            place = f"$.entries[{index}].config"
            raise ConfigFileError(
                f"{brief(path)}, line {_line(root, place)}: nothing can launch {place}: {brief(why)}; {_REPAIR}"
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

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import stat
import subprocess
from itertools import permutations
from pathlib import Path

import filelock
import msgspec
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from store_examples import (
    FASTER_LIBRARY,
    H200,
    RTX4090,
    SLOWER_LIBRARY,
    WIDE,
    config_file,
    config_files,
    measured,
    predicted,
    problem,
)

from fusetune.core.config import NamedConfig
from fusetune.core.problem import NamedProblem
from fusetune.errors import EXIT_USAGE, ConfigFileError, NewerSchemaError
from fusetune.ops.approved import place_from_file
from fusetune.store import yaml_files
from fusetune.store.locks import lock_place
from fusetune.store.migrations import STEPS, migrate
from fusetune.store.schema import Entry
from fusetune.store.yaml_files import WriteResult, dump_config_file, read_config_file, write_entry
from tests.support.sample import BASELINE, EVALUATION, FILE, OP, tile
from tests.support.sample import FILES as ASSETS


def put(path: Path, entry: Entry) -> WriteResult:
    return write_entry(path, OP, RTX4090, entry)


# ------------------------------------------------------------------------------------------------ reading


def test_a_measured_entry_is_read_as_it_stands_in_the_file() -> None:
    assert read_config_file(ASSETS / "keep.yaml") == config_file(measured())


def test_a_predicted_entry_is_read_as_it_stands_in_the_file() -> None:
    assert read_config_file(ASSETS / "predicted.yaml") == config_file(predicted())


@pytest.mark.parametrize(
    ("asset", "words"),
    [
        ("corrupt.yaml", ["line 6, column 11", "not readable as YAML"]),
        ("not-a-mapping.yaml", ["the file is a list, not a mapping with `schema: 2`"]),
        ("empty.yaml", ["the file is empty, not a mapping"]),
        ("duplicate-key.yaml", ["line 15, column 5", "'evidence' is also on line 7", "keep one"]),
        ("missing-schema.yaml", ["line 1", "`schema` is missing", "`schema: 2`"]),
        ("unknown-key.yaml", ["line 6:", "unknown field `warps` at $.entries[0].config", "spelling or remove it"]),
        ("out-of-range.yaml", ["line 6:", "<= 32 at $.entries[0].config.num_warps", "correct it"]),
        ("not-a-power-of-two.yaml", ["line 6:", "power of two, not 6 at $.entries[0].config"]),
        ("wrong-type.yaml", ["line 3:", "Expected `str`, got `float` at $.target.capability", "in quotes"]),
        ("mixed-evidence.yaml", ["line 5:", "no `predicted_us`; evidence is never mixed at $.entries[0];"]),
        ("measured-without-gain.yaml", ["line 5:", "needs `gain` and `time_us` at $.entries[0];"]),
        (
            "duplicate-problem.yaml",
            ["line 15:", "$.entries[1] and $.entries[0] (line 5)", "M=128 K=1024 N=512", "remove one of the two"],
        ),
        ("older-schema.yaml", ["line 1:", "schema 0 is not one that fusetune ever wrote"]),
    ],
)
def test_a_bad_file_is_an_error_that_names_file_line_place_and_fix(asset: str, words: list[str]) -> None:
    with pytest.raises(ConfigFileError) as caught:
        read_config_file(ASSETS / asset)
    message = str(caught.value)
    assert message.startswith(str(ASSETS / asset))
    for part in words:
        assert part in message
    assert caught.value.exit_code == EXIT_USAGE


def test_a_newer_schema_is_refused_before_anything_else_is_looked_at() -> None:
    with pytest.raises(NewerSchemaError, match=r"newer-schema\.yaml, line 1: .*schema 3; .*upgrade fusetune"):
        read_config_file(ASSETS / "newer-schema.yaml")


@pytest.mark.parametrize("value", ["'1'", "true", "1.0", "~", "[1]"])
def test_a_schema_that_is_no_whole_number_is_refused_with_its_line(tmp_path: Path, value: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(f"op: {OP}\nschema: {value}\n")
    with pytest.raises(ConfigFileError, match=r"line 2: `schema` is .*; write a number: 2"):
        read_config_file(path)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigFileError, match=r"cannot read .*nowhere\.yaml: No such file .*check that it exists"):
        read_config_file(tmp_path / "nowhere.yaml")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigFileError, match=r"Is a directory; name a \.yaml file"):
        read_config_file(tmp_path)


def test_text_that_is_not_utf8_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(f"schema: 1\nop: {OP}\n# caf\xe9\n".encode("latin-1"))
    with pytest.raises(ConfigFileError, match="line 3: not UTF-8 text"):
        read_config_file(path)


def test_a_control_character_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bell.yaml"
    path.write_bytes(f"schema: 1\nop: {OP}\n# ding\x07\n".encode())
    with pytest.raises(ConfigFileError, match="line 3: not readable as YAML"):
        read_config_file(path)


@pytest.mark.parametrize("text", ["{schema: 1, schema: 1}", "{schema: 1, 'schema': 2}"])
def test_a_key_written_twice_on_one_line_is_found_too(tmp_path: Path, text: str) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text(text)
    with pytest.raises(ConfigFileError, match=r"line 1, column 13: .*'schema' is also on line 1"):
        read_config_file(path)


def test_a_key_of_another_type_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "number.yaml"
    path.write_text("schema: 1\n7: seven\n")
    with pytest.raises(ConfigFileError, match=r"Expected `str` at \$"):
        read_config_file(path)


@settings(deadline=None)  # it goes through the disk
@given(st.text() | st.sampled_from(["!!int ''", "!!int x", "!!bool x", "!!timestamp x", "[" * 2000, "&a [*a]", "? []"]))
@example("schema: 1\nop: g\ntarget: &a [*a]")
@example("schema: 99999999999999999999999")
@example("schema: -99")
def test_whatever_a_file_holds_reading_it_raises_nothing_but_a_file_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.mktemp("any") / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigFileError, match=re.escape(str(path))):
        read_config_file(path)


def test_no_python_object_is_made_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text(f"!!python/object/apply:os.mkdir [{tmp_path / 'made'}]")
    with pytest.raises(ConfigFileError):
        read_config_file(path)
    assert not (tmp_path / "made").exists()


def test_an_older_file_is_migrated_step_by_step(tmp_path: Path) -> None:
    path = tmp_path / "oldest.yaml"
    path.write_text((ASSETS / "older-schema.yaml").read_text().replace("schema: 0", "schema: -1"))
    steps = {
        -1: lambda raw: {("op" if key == "kernel" else key): value for key, value in raw.items()},
        0: lambda raw: {("target" if key == "gpu" else key): value for key, value in raw.items()},
    }
    assert read_config_file(path, {**STEPS, **steps}) == config_file()
    with pytest.raises(ConfigFileError, match=r"line 2: .* at \$\.kernel"):
        read_config_file(ASSETS / "older-schema.yaml", {**STEPS, 0: steps[0]})


def test_a_file_of_schema_1_says_the_same_and_becomes_one_of_today_at_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_text((ASSETS / "keep.yaml").read_text().replace("schema: 2", "schema: 1"))
    read = read_config_file(path)
    assert read == read_config_file(ASSETS / "keep.yaml")
    assert "schema: 1" in path.read_text(), "reading changes nothing on disk"
    put(path, measured(problem(64)))
    assert "schema: 2" in path.read_text()
    assert set(read_config_file(path).entries) == {*read.entries, measured(problem(64))}


def test_what_ran_before_stands_in_an_entry_where_it_was_not_baseline(tmp_path: Path) -> None:
    path = tmp_path / FILE
    entry = msgspec.structs.replace(measured(), before=tile(rows=16))
    put(path, entry)
    assert read_config_file(path).entries == (entry,)


@pytest.mark.parametrize("folder", ["repository", "elsewhere"])
def test_a_file_remembers_where_its_op_is_and_names_it_from_its_own_place(tmp_path: Path, folder: str) -> None:
    path = tmp_path / "repository" / "configs" / "gpu" / "mine.yaml"
    place = f"{tmp_path / folder / 'ops' / 'mine.py'}:SPEC"
    named = "ops/mine.py:SPEC" if folder == "repository" else place
    for number in (32, 64):
        write_entry(path, "elsewhere", RTX4090, _mine(number), place)
    write_entry(path, "elsewhere", RTX4090, _mine(128))  # by a command that knows the op by name
    assert read_config_file(path).spec == named
    assert place_from_file(named, path) == place


def _mine(n: int) -> Entry:
    config = NamedConfig(BLOCK=64)
    return msgspec.structs.replace(predicted(), problem=NamedProblem(n=n), config=config)


@pytest.mark.parametrize("spec", ["mine", "a:b:c", ":SPEC", "mine.py:1", "3", "[mine.py:SPEC]"])
def test_a_place_that_can_be_none_is_refused_with_its_line(tmp_path: Path, spec: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        dump_config_file(config_file(op="elsewhere")).replace("op: elsewhere", f"op: elsewhere\nspec: {spec}")
    )
    with pytest.raises(ConfigFileError, match=r"line 4: .*\$\.spec"):
        read_config_file(path)


def test_each_migration_step_sees_the_version_that_it_starts_from_and_leaves_its_input_alone() -> None:
    seen = []

    def step(raw: dict[str, object]) -> dict[str, object]:
        seen.append(raw.pop("schema"))
        return raw

    old = {"schema": 1, "op": "g"}
    assert migrate(old, {1: step, 2: step, 3: step}, to=4) == {"schema": 4, "op": "g"}
    assert seen == [1, 2, 3]
    assert old == {"schema": 1, "op": "g"}


def test_a_migration_step_that_trips_over_a_damaged_file_is_a_file_error() -> None:
    with pytest.raises(
        ConfigFileError, match=r"older-schema\.yaml, line 1: the step from schema 0 to 1 failed: KeyError"
    ):
        read_config_file(ASSETS / "older-schema.yaml", {0: lambda raw: {"op": raw["name"]}})


# ------------------------------------------------------------------------------------------------ dumping


@settings(deadline=None)  # it goes through the disk
@given(config_files)
def test_what_is_dumped_is_read_back_equal(tmp_path_factory: pytest.TempPathFactory, file) -> None:
    path = tmp_path_factory.mktemp("round") / "trip.yaml"
    path.write_text(dump_config_file(file), encoding="utf-8")
    assert read_config_file(path) == file


def test_a_dumped_file_looks_like_the_one_in_the_repository() -> None:
    assert dump_config_file(config_file(measured())) == (ASSETS / "keep.yaml").read_text()


def test_a_file_of_a_program_s_kernel_names_the_command_that_wrote_it() -> None:
    file = msgspec.structs.replace(config_file(measured()), kernel="norms:scale")
    assert dump_config_file(file).startswith("# Written by `fusetune tune`, ")
    assert dump_config_file(config_file(measured())).startswith("# Written by `fusetune sweep`, ")


def test_a_dumped_file_is_the_same_for_any_yaml_reader() -> None:
    file = config_file(measured(), predicted(problem(64)))
    assert yaml.safe_load(dump_config_file(file)) == msgspec.json.decode(msgspec.json.encode(file))


# ------------------------------------------------------------------------------------------------ writing


def test_the_first_entry_makes_folder_and_file(tmp_path: Path) -> None:
    path = tmp_path / "nvidia-geforce-rtx-4090" / FILE
    assert put(path, measured()) == WriteResult(path=path, written=True)
    assert read_config_file(path) == config_file(measured())


def test_an_entry_replaces_the_one_for_the_same_problem_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / FILE
    other, old, new = measured(problem(64)), measured(), measured(config=tile(rows=16))
    for entry in (other, old, new):
        assert put(path, entry).written
    assert read_config_file(path).entries == (other, new)


def test_entries_stand_in_the_same_order_whatever_order_they_came_in(tmp_path: Path) -> None:
    ordered = (
        measured(problem(9, N=16, K=99)),
        measured(problem(9, N=32, K=8)),
        measured(problem(8, N=32, K=16)),
        measured(problem(9, N=32, K=16, dtype="float16", precision=None)),
        measured(problem(9, N=32, K=16, precision="ieee")),
        measured(problem(9, N=32, K=16, precision="tf32")),
        measured(problem(9, N=32, K=16, precision="tf32", mode=EVALUATION)),
    )
    for number, shuffled in enumerate([ordered[::-1], *list(permutations(ordered))[1::1700]]):
        path = tmp_path / f"{number}.yaml"
        for entry in shuffled:
            put(path, entry)
        assert read_config_file(path).entries == ordered


def test_a_predicted_entry_does_not_replace_a_measured_one(tmp_path: Path) -> None:
    path = tmp_path / FILE
    stays = measured(config=BASELINE, verdict="inconclusive", reason="budget_exhausted")
    put(path, stays)
    before = path.stat()
    assert put(path, predicted()) == WriteResult(path=path, written=False, kept=stays)
    assert read_config_file(path).entries == (stays,)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_measured_entry_replaces_a_predicted_one(tmp_path: Path) -> None:
    path = tmp_path / FILE
    put(path, predicted())
    assert put(path, measured()).written
    assert read_config_file(path).entries == (measured(),)


def test_a_newer_prediction_replaces_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / FILE
    put(path, predicted(config=BASELINE))
    assert put(path, predicted()).written
    assert read_config_file(path).entries == (predicted(),)


@pytest.mark.parametrize("asset", ["corrupt.yaml", "duplicate-problem.yaml", "newer-schema.yaml", "empty.yaml"])
def test_a_damaged_file_is_left_as_it_is(tmp_path: Path, asset: str) -> None:
    path = tmp_path / asset
    path.write_bytes((ASSETS / asset).read_bytes())
    with pytest.raises(ConfigFileError, match=re.escape(asset)):
        put(path, measured())
    assert path.read_bytes() == (ASSETS / asset).read_bytes()


def test_a_file_of_another_op_or_gpu_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / FILE
    put(path, measured())
    with pytest.raises(ConfigFileError, match=f"is for the op '{OP}', not 'softmax'"):
        write_entry(path, "softmax", RTX4090, measured(problem(64)))
    with pytest.raises(
        ConfigFileError, match="another GPU: it is for NVIDIA GeForce RTX 4090, this GPU is NVIDIA H200"
    ):
        write_entry(path, OP, H200, measured(problem(64)))
    assert read_config_file(path) == config_file(measured())


def test_an_entry_that_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / FILE
    with pytest.raises(ConfigFileError, match=r"was not written: .*num_stages"):
        put(path, measured(config=msgspec.structs.replace(WIDE, num_stages=17)))
    assert not path.exists()


def write_many(path: Path, sizes: range) -> None:
    for M in sizes:
        put(path, measured(problem(M)))


def test_two_processes_writing_one_file_lose_no_entry(tmp_path: Path) -> None:
    path = tmp_path / FILE
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=write_many, args=(path, range(1 + which, 41, 2))) for which in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert [entry.problem.sizes()["M"] for entry in read_config_file(path).entries] == list(range(1, 41))


def die_before_the_rename(path: Path) -> None:
    yaml_files.os.replace = lambda *_: os._exit(9)
    put(path, measured(problem(64)))


def test_a_kill_before_the_rename_leaves_the_old_file_and_the_next_write_works(tmp_path: Path) -> None:
    path = tmp_path / FILE
    put(path, measured())
    old = path.read_bytes()
    victim = multiprocessing.get_context("spawn").Process(target=die_before_the_rename, args=(path,))
    victim.start()
    victim.join()
    assert victim.exitcode == 9
    assert path.read_bytes() == old
    put(path, measured(problem(32)))
    assert [entry.problem.sizes()["M"] for entry in read_config_file(path).entries] == [32, 128]
    assert sorted(item.name for item in tmp_path.iterdir()) == [".locks", FILE]


def test_git_sees_the_file_and_no_lock_of_it(tmp_path: Path) -> None:
    put(tmp_path / "configs" / "gpu" / FILE, measured())
    put(tmp_path / "configs" / "gpu" / FILE, measured(problem(32)))
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q")
    assert git("status", "--porcelain", "-uall") == f"?? configs/gpu/{FILE}\n"


def test_a_read_only_file_system_is_told_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / FILE
    put(path, measured())

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(yaml_files.os, "replace", refuse)
    with pytest.raises(ConfigFileError, match=rf"cannot write .*{OP}\.yaml: Read-only file system; choose a folder"):
        put(path, measured(problem(64)))
    assert read_config_file(path) == config_file(measured())
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_path_that_is_a_folder_or_goes_through_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ConfigFileError, match=r"folder\.yaml: Is a directory; name a \.yaml file"):
        put(tmp_path / "folder.yaml", measured())
    (tmp_path / "file").touch()
    with pytest.raises(ConfigFileError, match=r"cannot write .*choose a folder"):
        put(tmp_path / "file" / FILE, measured())


def test_a_lock_that_is_held_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_files, "LOCK_TIMEOUT_S", 0.1)
    path = tmp_path / FILE
    with (
        filelock.FileLock(lock_place(path)),
        pytest.raises(ConfigFileError, match="another process has held its lock"),
    ):
        put(path, measured())
    assert not path.exists()


def test_a_symbolic_link_stays_one_and_its_file_keeps_its_mode(tmp_path: Path) -> None:
    real, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    put(real, measured())
    real.chmod(0o640)
    link.symlink_to(real)
    put(link, measured(problem(64)))
    assert link.is_symlink()
    assert len(read_config_file(real).entries) == 2
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_a_new_file_can_be_read_by_whom_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        put(tmp_path / FILE, measured())
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o640


# ---------------------------------------------------------------------------------------------- the library


def test_a_library_stands_in_the_file_under_a_key_of_its_own(tmp_path: Path) -> None:
    entry = measured(library=FASTER_LIBRARY)
    path = tmp_path / FILE
    put(path, entry)
    assert read_config_file(path).entries == (entry,)
    assert yaml.safe_load(path.read_text())["entries"][0]["library"] == {
        "config": msgspec.to_builtins(FASTER_LIBRARY.config),
        "us": 5.0,
        "gain": {"median": -0.06, "low": -0.063, "high": -0.058, "blocks": 25},
    }
    assert "library" not in dump_config_file(config_file(measured()))


LIBRARY_TEXT = "library: {config: {variant: library}, us: 7.1, gain: {median: 0.25, low: 0.24, high: 0.26, blocks: 25}}"


@pytest.mark.parametrize(
    ("asset", "text", "words"),
    [
        ("keep", LIBRARY_TEXT.replace("variant: library", "num_warps: 8"), "beside an entry's that is none"),
        ("keep", LIBRARY_TEXT.replace("us: 7.1", "us: 0"), r"Expected `float` > 0.0"),
        ("keep", LIBRARY_TEXT.replace("median: 0.25", "median: 1"), r"Expected `float` < 1.0"),
        ("keep", LIBRARY_TEXT.replace("blocks", "rounds"), "unknown field `rounds`"),
        ("keep", LIBRARY_TEXT.replace("us: 7.1, ", ""), "missing required field `us`"),
        ("predicted", LIBRARY_TEXT, "a predicted entry has no `library`; nothing was timed"),
    ],
)
def test_a_library_that_cannot_be_is_refused(tmp_path: Path, asset: str, text: str, words: str) -> None:
    path = tmp_path / FILE
    file = config_file({"keep": measured, "predicted": predicted}[asset]())
    path.write_text(dump_config_file(file) + f"  {text}\n")
    with pytest.raises(ConfigFileError, match=words):
        read_config_file(path)


def test_an_entry_of_a_library_has_none_beside_it() -> None:
    with pytest.raises(ValueError, match="beside an entry's that is none"):
        measured(config=SLOWER_LIBRARY.config, library=FASTER_LIBRARY).__post_init__()


def test_a_number_with_a_leading_zero_is_no_octal_one_and_a_time_of_day_is_no_number(tmp_path: Path) -> None:
    text = dump_config_file(config_file(measured()))
    path = tmp_path / FILE
    path.write_text(text.replace("M: 128", "M: 0064"))
    assert read_config_file(path).entries[0].problem.sizes()["M"] == 64
    path.write_text(text.replace("M: 128", "M: 2:30"))
    with pytest.raises(ConfigFileError, match=r"line \d+: Expected `int`, got `str` at \$\.entries\[0\]\.problem\.[M]"):
        read_config_file(path)

"""Entries, files and strategies that several tests of the store need."""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st

from fusetune.core.decision import Gain
from fusetune.store.schema import (
    ConfigFile,
    ConservativeGain,
    Entry,
    Environment,
    Library,
    LibraryGain,
    TargetIdentity,
    Times,
)
from tests.support.sample import LIBRARIES, OP, OP_WITH_MODES, Config, Problem, make_problem, tile
from tests.support.sample.drawn import configs, library_configs, problems

RTX4090 = TargetIdentity(name="NVIDIA GeForce RTX 4090", capability="8.9", sms=128)
H200 = TargetIdentity(name="NVIDIA H200", capability="9.0", sms=132)
ENVIRONMENT = Environment(
    triton="3.7.1", kernel_hash="5ca1ab1e", ptxas="12.9.86", torch="2.13.0", cuda="13.0", driver="580.65"
)
WIDE = tile(columns=16, depth=128, num_stages=3)
SLOWER_LIBRARY = Library(LIBRARIES[0], 7.1, LibraryGain(0.2535, 0.251, 0.256, blocks=25))
FASTER_LIBRARY = Library(LIBRARIES[1], 5.0, LibraryGain(-0.06, -0.063, -0.058, blocks=25))


def problem(M: int = 128, **changes: object) -> Problem:
    return msgspec.structs.replace(make_problem(M=M, N=512, K=1024, dtype="float32"), **changes)


def measured(at: Problem | None = None, config: Config = WIDE, **changes: object) -> Entry:
    entry = Entry(
        problem=at or problem(),
        config=config,
        evidence="measured",
        verdict="keep",
        reason="gain_confirmed",
        environment=ENVIRONMENT,
        run="20261123T101500-3f9a",
        date="2026-11-23",
        gain=Gain(median=0.598, low=0.596, high=0.601, confidence=0.95, min_gain=0.02, blocks=50),
        time_us=Times(baseline=13.2, conservative=6.6, config=5.3),
    )
    return msgspec.structs.replace(entry, **changes)


def predicted(at: Problem | None = None, config: Config = WIDE) -> Entry:
    return Entry(
        problem=at or problem(),
        config=config,
        evidence="predicted",
        verdict="unverified",
        reason="predicted_not_timed",
        environment=msgspec.structs.replace(ENVIRONMENT, driver=None),
        run="20261123T111500-77aa",
        date="2026-11-23",
        predicted_us=Times(baseline=14.0, conservative=7.0, config=6.0),
    )


def config_file(*entries: Entry, op: str = OP, target: TargetIdentity = RTX4090) -> ConfigFile:
    return ConfigFile(schema=2, op=op, target=target, entries=entries)


# A lone surrogate is no character: no UTF-8 file can hold it.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
maybe_texts = st.none() | texts
numbers = st.floats(allow_nan=False)
amounts = st.floats(min_value=0.0, max_value=1e11)
times_us = st.floats(min_value=0.0, exclude_min=True, max_value=1e11)
medians = st.floats(min_value=-1e299, max_value=1.0, exclude_max=True)
lows = st.floats(max_value=1.0, allow_nan=False)
highs = st.floats(min_value=-1e299, allow_nan=False)
block_counts = st.integers(1, 1000)
environments = st.builds(
    Environment,
    triton=texts,
    kernel_hash=texts,
    ptxas=maybe_texts,
    torch=maybe_texts,
    cuda=maybe_texts,
    driver=maybe_texts,
    clocks=maybe_texts,
)
gains = st.builds(
    Gain,
    median=medians,
    low=lows,
    high=highs,
    confidence=st.floats(0.01, 0.99),
    min_gain=st.floats(0, 0.99),
    blocks=block_counts,
)
all_times = st.builds(Times, baseline=times_us, conservative=times_us, config=times_us)
libraries = st.builds(
    Library,
    config=library_configs,
    us=times_us,
    gain=st.builds(
        LibraryGain,
        median=medians,
        low=lows,
        high=highs,
        blocks=block_counts,
    ),
)
measured_entries = st.builds(
    Entry,
    problem=problems,
    config=configs,
    evidence=st.just("measured"),
    verdict=st.sampled_from(["keep", "revert", "inconclusive"]),
    reason=st.sampled_from(["gain_confirmed", "gain_below_minimum", "budget_exhausted"]),
    environment=environments,
    run=texts,
    date=texts | st.dates().map(str),
    gain=gains,
    gain_over_conservative=st.none()
    | st.builds(ConservativeGain, median=medians, low=lows, high=highs, blocks=block_counts, config=configs),
    time_us=all_times,
    library=st.none() | libraries,
)
predicted_entries = st.builds(
    Entry,
    problem=problems,
    config=configs,
    evidence=st.just("predicted"),
    verdict=st.just("unverified"),
    reason=st.just("predicted_not_timed"),
    environment=environments,
    run=texts,
    date=texts,
    predicted_us=all_times,
)
entries = measured_entries | predicted_entries
targets = st.builds(
    TargetIdentity,
    name=texts,
    capability=st.from_regex(r"[0-9]{1,2}\.[0-9]", fullmatch=True),
    sms=st.integers(1, 1000),
)
config_files = st.builds(
    ConfigFile,
    schema=st.just(2),
    op=st.sampled_from([OP, OP_WITH_MODES]),
    target=targets,
    entries=st.lists(entries, max_size=4, unique_by=lambda entry: entry.problem).map(tuple),
)

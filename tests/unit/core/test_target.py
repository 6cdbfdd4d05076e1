"""The table of GPUs, and how one is found in it."""

from collections import Counter

import pytest

from fusetune.core.target import DEFAULT_TARGET, Target, find_target, known_targets, match_target
from fusetune.core.text import slugify
from fusetune.errors import EXIT_USAGE, UnknownTargetError

NOT_FIGURES = {"name", "capability", "aliases", "sources"}
FIGURES = tuple(field for field in Target.__struct_fields__ if field not in NOT_FIGURES)
FP32_FLOP_PER_CLOCK_AND_SM = {"8.0": 128, "8.6": 256, "8.9": 256, "9.0": 256, "12.0": 256}
TENSOR_CLOCK_BELOW_BOOST = {"9.0"}
SHORT_NAMES = [
    "rtx4090", "rtx4080", "rtx3090", "l4", "l40s", "a10", "a100-40gb", "a100-pcie-40gb", "a100-80gb",
    "a100-pcie-80gb", "h100-pcie", "h100-sxm", "h200", "b200", "rtx5090",
]  # fmt: skip

each_target = pytest.mark.parametrize("target", known_targets(), ids=lambda target: target.aliases[0])


def sparse_marker(source: str) -> bool:
    return "sparsity" in source or "sparse" in source


@each_target
def test_every_figure_has_a_source_and_every_source_has_a_figure(target: Target) -> None:
    present = {field for field in FIGURES if getattr(target, field) is not None}
    assert set(target.sources) == present


@each_target
def test_a_source_is_a_document_of_the_maker_by_name_or_what_its_driver_reports(target: Target) -> None:
    for field, source in target.sources.items():
        assert len(source.split()) >= 4, (field, source)
        assert source.startswith(("NVIDIA ", "CUDA ")), (field, source)


@each_target
def test_a_peak_that_quotes_a_sparse_rate_says_what_was_done_about_it(target: Target) -> None:
    for field, source in target.sources.items():
        if sparse_marker(source):
            assert field in {"tf32_tflops", "fp16_tflops", "bf16_tflops"}
            assert "halved" in source or "dense" in source


@pytest.mark.parametrize(
    "names",
    [
        [target.name for target in known_targets()],
        [target.slug for target in known_targets()],
        [key for target in known_targets() for key in {target.slug, *map(slugify, target.aliases)}],
    ],
    ids=["names", "slugs", "everything that find_target takes"],
)
def test_nothing_means_two_gpus(names: list[str]) -> None:
    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_the_table_holds_the_gpus_that_the_command_line_offers_in_order() -> None:
    assert [target.aliases[0] for target in known_targets()] == SHORT_NAMES


@each_target
def test_the_figures_are_physically_possible(target: Target) -> None:
    for field in FIGURES:
        figure = getattr(target, field)
        assert figure is None or figure > 0, field
    assert target.shared_bytes_per_cta < target.shared_bytes_per_sm
    assert target.max_ctas_per_sm <= target.max_warps_per_sm
    assert target.l2_bytes is None or 4 << 20 <= target.l2_bytes <= 256 << 20
    assert target.tf32_tflops is not None
    assert target.fp16_tflops is not None
    assert target.dram_gb_s is not None
    # A tensor core multiplies two 16-bit values, or one TF32 value, in the same cycle; data sheets round.
    assert target.tf32_tflops == pytest.approx(target.fp16_tflops / 2, rel=0.03)
    assert target.fp16_tflops == target.bf16_tflops
    # The balance point of every GPU since 2020 lies in this range: a misplaced digit or a GiB for a GB leaves it.
    assert 50 <= target.fp16_tflops * 1e3 / target.dram_gb_s <= 450


@pytest.mark.parametrize(
    "target", [target for target in known_targets() if target.boost_mhz], ids=lambda target: target.aliases[0]
)
def test_peaks_agree_with_the_number_of_sms_and_the_clock(target: Target) -> None:
    assert target.boost_mhz is not None
    cycles_per_s = target.sms * target.boost_mhz * 1e6
    assert target.fp32_tflops is not None
    assert target.fp32_tflops * 1e12 / cycles_per_s == pytest.approx(
        FP32_FLOP_PER_CLOCK_AND_SM[target.capability], rel=0.01
    )
    if target.capability in TENSOR_CLOCK_BELOW_BOOST:
        return
    assert target.fp16_tflops is not None
    dense_rates = (512, 1024, 2048)
    rate = target.fp16_tflops * 1e12 / cycles_per_s
    assert min(abs(rate / dense - 1) for dense in dense_rates) < 0.015


@pytest.mark.parametrize(("name", "rate"), [("rtx4090", 512), ("rtx4080", 512), ("rtx3090", 512), ("rtx5090", 512)])
def test_geforce_peaks_are_those_with_fp32_accumulation(name: str, rate: int) -> None:
    """With FP16 accumulation, and again with sparsity, GeForce tables print 1024 and 2048 FLOP a clock and SM."""
    target = find_target(name)
    assert target.boost_mhz is not None
    assert target.fp16_tflops is not None
    assert target.fp16_tflops * 1e6 / (target.sms * target.boost_mhz) == pytest.approx(rate, rel=0.01)


def test_gpus_of_one_capability_have_the_same_limits() -> None:
    limits = {
        (
            target.capability,
            target.registers_per_sm,
            target.max_warps_per_sm,
            target.max_ctas_per_sm,
            target.shared_bytes_per_sm,
            target.shared_bytes_per_cta,
        )
        for target in known_targets()
    }
    assert limits == {
        ("8.0", 65536, 64, 32, 164 * 1024, 163 * 1024),
        ("8.6", 65536, 48, 16, 100 * 1024, 99 * 1024),
        ("8.9", 65536, 48, 24, 100 * 1024, 99 * 1024),
        ("9.0", 65536, 64, 32, 228 * 1024, 227 * 1024),
        ("10.0", 65536, 64, 32, 228 * 1024, 227 * 1024),
        ("12.0", 65536, 48, 24, 100 * 1024, 99 * 1024),
    }


def test_the_rtx_4090_is_that_of_its_maker_s_white_paper() -> None:
    target = known_targets()[0]
    assert target is find_target(DEFAULT_TARGET)
    assert (target.name, target.capability, target.sm) == ("NVIDIA GeForce RTX 4090", "8.9", 89)
    assert (target.sms, target.max_warps_per_sm) == (128, 48)
    assert (target.shared_bytes_per_sm, target.shared_bytes_per_cta) == (100 * 1024, 99 * 1024)
    assert (target.dram_gb_s, target.l2_bytes) == (1008, 75497472)
    assert (target.tf32_tflops, target.fp16_tflops, target.bf16_tflops) == (82.6, 165.2, 165.2)
    assert target.sources["dram_gb_s"].startswith("NVIDIA Ada GPU Architecture white paper")


@pytest.mark.parametrize(
    ("short", "sms", "dram_gb_s", "tf32_tflops", "fp16_tflops"),
    [
        ("rtx3090", 82, 936, 35.6, 71),
        ("l4", 58, 300, 60, 121),
        ("l40s", 142, 864, 183, 362.05),
        ("a100-80gb", 108, 2039, 156, 312),
        ("h100-pcie", 114, 2039, 378, 756),
        ("h100-sxm", 132, 3352, 494.7, 989.4),
        ("h200", 132, 4800, 494.5, 989.5),
        ("rtx5090", 170, 1792, 104.8, 209.5),
    ],
)
def test_well_known_figures_are_dense(
    short: str, sms: int, dram_gb_s: float, tf32_tflops: float, fp16_tflops: float
) -> None:
    target = find_target(short)
    assert (target.sms, target.dram_gb_s) == (sms, dram_gb_s)
    assert (target.tf32_tflops, target.fp16_tflops) == (tf32_tflops, fp16_tflops)


def test_a_figure_without_a_document_is_none() -> None:
    assert find_target("b200").fp32_tflops is None
    assert "fp32_tflops" not in find_target("b200").sources


@each_target
def test_a_target_is_found_by_every_name_it_has(target: Target) -> None:
    for name in (target.name, target.slug, *target.aliases):
        assert find_target(name) is target
        assert find_target(name.upper()) is target
        assert find_target(name.lower()) is target


@pytest.mark.parametrize("name", ["RTX 4090", "rtx_4090", "  rtx4090 ", "4090", "nvidia geforce rtx 4090"])
def test_the_way_people_write_a_gpu_s_name_is_understood(name: str) -> None:
    assert find_target(name).name == "NVIDIA GeForce RTX 4090"


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("3090", "NVIDIA GeForce RTX 3090"),
        ("5090", "NVIDIA GeForce RTX 5090"),
        ("a100", "NVIDIA A100-SXM4-80GB"),
        ("h100", "NVIDIA H100 80GB HBM3"),
    ],
)
def test_the_shortest_name_of_a_gpu_is_its_commonest_form(name: str, whole: str) -> None:
    assert find_target(name).name == whole


@pytest.mark.parametrize("name", ["", "rtx", "NVIDIA", "rtx4090d", "NVIDIA GeForce RTX 4090 D", "rtx4090 laptop"])
def test_a_name_that_is_not_in_the_table_is_never_guessed(name: str) -> None:
    with pytest.raises(UnknownTargetError):
        find_target(name)


def test_an_unknown_target_names_itself_and_lists_the_short_names() -> None:
    with pytest.raises(UnknownTargetError) as caught:
        find_target("rtx9999")
    message = str(caught.value)
    assert "'rtx9999'" in message
    assert message.endswith(", ".join(SHORT_NAMES))
    assert caught.value.exit_code == EXIT_USAGE


@each_target
def test_a_gpu_is_matched_by_what_its_driver_reports(target: Target) -> None:
    assert match_target(target.name, target.capability, target.sms) is target


def test_a_4090_d_is_not_a_4090() -> None:
    assert match_target("NVIDIA GeForce RTX 4090 D", "8.9", 114) is None
    assert match_target("NVIDIA GeForce RTX 4090 D", "8.9", 128) is None


@pytest.mark.parametrize(
    ("name", "capability", "sms"),
    [
        ("NVIDIA GeForce RTX 4090", "8.9", 114),
        ("NVIDIA GeForce RTX 4090", "8.6", 128),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "8.9", 76),
        ("rtx4090", "8.9", 128),
        ("NVIDIA H100 80GB HBM3", "9.0", 16),
        ("", "8.9", 128),
    ],
)
def test_a_match_needs_name_capability_and_number_of_sms(name: str, capability: str, sms: int) -> None:
    assert match_target(name, capability, sms) is None


@pytest.mark.parametrize(
    ("gpu_name", "folder"),
    [
        ("NVIDIA GeForce RTX 4090", "nvidia-geforce-rtx-4090"),
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"),
        ("NVIDIA A100-SXM4-80GB", "nvidia-a100-sxm4-80gb"),
        (" Odd / Name (tm) ", "odd-name-tm"),
    ],
)
def test_a_gpu_s_folder_is_its_name_in_lower_case_and_hyphens(gpu_name: str, folder: str) -> None:
    assert slugify(gpu_name) == folder


@each_target
def test_the_capability_reads_as_compilers_write_it(target: Target) -> None:
    major, minor = target.capability.split(".")
    assert target.sm == int(major) * 10 + int(minor)

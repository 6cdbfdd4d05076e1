"""What an autotuner is about to time is compiled at once, before its first trial."""

import pytest
import torch
import triton
import triton.language as tl
from triton.compiler import CompiledKernel
from triton.runtime._async_compile import active_mode

from fusetune.capture.stand_in import stand_in
from fusetune.capture.together import compile_all, compiled_together
from fusetune.core.target import find_target

pytestmark = pytest.mark.compile

CONFIGS = [triton.Config({"BLOCK": block}, num_warps=warps) for block in (64, 128) for warps in (1, 2)]
N = 1000


def copy_kernel():
    @triton.jit
    def copied(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
        tl.static_assert(BLOCK > 16)
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n), mask=at < n)

    return copied


def held(kernel):
    """The kernels that Triton's JIT holds compiled, by their constants and warps."""
    (cache,) = [caches[0] for caches in kernel.device_caches.values()]
    return [one for one in cache.values() if isinstance(one, CompiledKernel)]


def arguments():
    return torch.zeros(N, device="cuda"), torch.zeros(N, device="cuda"), N


def named_arguments():
    return dict(zip(("x_ptr", "y_ptr", "n"), arguments(), strict=True))


def grid(meta):
    return (triton.cdiv(N, meta["BLOCK"]),)


def test_each_config_is_compiled_and_one_that_does_not_compile_stops_no_other():
    with stand_in(find_target("rtx4090")):
        kernel = copy_kernel()
        compile_all(
            kernel, named_arguments(), {"grid": grid, "warmup": False}, [triton.Config({"BLOCK": 16}), *CONFIGS]
        )
        assert sorted(one.metadata.num_warps for one in held(kernel)) == [1, 1, 2, 2]


def test_an_autotuner_finds_its_configs_compiled_at_its_first_trial():
    # Undone before the stand-in is, which has put its own there.
    with stand_in(find_target("rtx4090")), compiled_together(), pytest.MonkeyPatch.context() as monkeypatch:
        kernel = copy_kernel()
        tuner = triton.autotune(configs=CONFIGS, key=["n"])(kernel)
        seen = []
        monkeypatch.setattr(type(tuner), "_bench", lambda *_, **__: seen.append(len(held(kernel))) or [1.0])
        tuner[grid](*arguments())
        assert seen == [4, 4, 4, 4]


def test_afterwards_triton_is_as_it_was():
    from triton.runtime.autotuner import Autotuner

    prune = Autotuner.prune_configs
    with compiled_together():
        assert Autotuner.prune_configs is not prune
    assert Autotuner.prune_configs is prune


def test_copies_of_the_process_compile_into_the_cache(tmp_path, monkeypatch):
    def none_here(later):
        later.set_exception(AssertionError("the process itself compiles"))

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("fusetune.capture.together._Later.do", none_here)
    with stand_in(find_target("rtx4090")):
        compile_all(copy_kernel(), named_arguments(), {"grid": grid, "warmup": False}, CONFIGS)
    assert len(list(tmp_path.glob("*/*.cubin"))) == len(CONFIGS)


class TimeIsUp(BaseException):
    """As pytest's own, which is no Exception."""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("while_", ["the copies compile", "the process itself compiles"])
def test_what_ends_the_program_s_wait_is_not_held_up_by_what_is_not_compiled(while_, tmp_path, monkeypatch):
    def ended(*_, **__):
        raise TimeIsUp

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    with stand_in(find_target("rtx4090")):
        kernel = copy_kernel()
        with pytest.MonkeyPatch.context() as meanwhile:
            if while_ == "the copies compile":
                meanwhile.setattr("fusetune.capture.together.done_by_copies", ended)
            else:
                meanwhile.setattr("fusetune.capture.together.done_by_copies", lambda *_: None)
                meanwhile.setattr("triton.compiler.compiler.ASTSource.make_ir", ended)
            with pytest.raises(TimeIsUp):
                compile_all(kernel, named_arguments(), {"grid": grid, "warmup": False}, CONFIGS)
        assert active_mode.get() is None
        assert held(kernel) == []
        # The program may go on, as pytest does with its next test.
        made = [kernel.warmup(*arguments(), grid=grid, **config.all_kwargs()) for config in CONFIGS]
        assert [one.metadata.num_warps for one in made] == [1, 2, 1, 2]


def test_a_config_s_hook_has_given_its_descriptor_the_shape_of_a_block():
    from triton.tools.tensor_descriptor import TensorDescriptor

    def shaped(nargs):
        nargs["x_desc"].block_shape = [nargs["BLOCK"]]

    configs = [triton.Config({"BLOCK": block}, pre_hook=shaped) for block in (64, 128, 256)]
    with stand_in(find_target("h100")):

        @triton.jit
        def doubled(x_desc, y_ptr, BLOCK: tl.constexpr):
            first = tl.program_id(0) * BLOCK
            tl.store(y_ptr + first + tl.arange(0, BLOCK), x_desc.load([first]) * 2)

        x, y, _ = arguments()
        descriptor = TensorDescriptor.from_tensor(x, [1])
        compile_all(doubled, {"x_desc": descriptor, "y_ptr": y}, {"grid": grid, "warmup": False}, configs)
        assert len(held(doubled)) == len(configs)
        for config in configs:  # as the autotuner's trials then launch
            shaped({"x_desc": descriptor, **config.kwargs})
            doubled.run(descriptor, y, grid=(1,), warmup=True, **config.all_kwargs())
        assert len(held(doubled)) == len(configs), "none was compiled for another block than its own"

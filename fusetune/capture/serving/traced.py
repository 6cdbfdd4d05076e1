"""Autotuners that torch.compile takes in choose among tuned configs while it traces them, and none is timed.

Private parts of torch that this relies on, the same in 2.11 to 2.13: `TritonHOPifier.init_variable` of
torch._higher_order_ops.triton_kernel_wrap is given each kernel that Dynamo meets. What it reads of an autotuner after
that, `configs` and `early_config_prune`, is guarded by its identity.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from fusetune.capture.patching import Patches

MODULE: Final = "torch._higher_order_ops.triton_kernel_wrap"


class Traces:
    """Lets autotuners do as `fusetune.autotune` does, once they are traced; `told` hears the name of each kernel.

    They are as they were when `patches` are closed.
    """

    def __init__(self, patches: Patches, told: Callable[[str], None]) -> None:
        self._patches, self._told = patches, told
        self._ours: dict[int, Any] = {}

    def watch(self, module: ModuleType) -> None:
        """Hear of kernels from torch's own module."""
        maker = getattr(module, "TritonHOPifier", None)
        own = getattr(maker, "init_variable", None)
        if own is None:
            return

        def init_variable(hopifier: Any, variable: Any, kernel: Any, *rest: Any, **named: Any) -> Any:
            self.take_in(kernel)
            return own(hopifier, variable, kernel, *rest, **named)

        self._patches.put(maker, "init_variable", init_variable)

    def take_in(self, kernel: Any) -> None:
        """Let an autotuner choose as one of ours; nothing is done to any other kernel, nor to one with one config."""
        from triton.runtime.autotuner import Autotuner

        from fusetune.runtime.autotune import Autotuned, autotune
        from fusetune.runtime.traced import Traced

        if not isinstance(kernel, Autotuner) or isinstance(kernel, Autotuned) or len(kernel.configs) < 2:
            return
        # Of one that was taken in torch makes others, with what it chooses by.
        if isinstance(getattr(kernel.early_config_prune, "__self__", None), Traced):
            return
        prune = {
            "early_config_prune": kernel.early_config_prune,
            "perf_model": kernel.perf_model,
            "top_k": kernel.configs_top_k,
        }
        ours: Any = autotune(configs=list(kernel.configs), key=list(kernel.keys), prune_configs_by=prune)(kernel.fn)
        self._ours[id(kernel)] = ours  # What it chooses by lives as long.
        self._patches.put(kernel, "configs", ours.configs)
        self._patches.put(kernel, "early_config_prune", ours.early_config_prune)
        self._patches.put(kernel, "perf_model", None)
        self._told(str(getattr(ours.base_fn, "__qualname__", "a kernel")))

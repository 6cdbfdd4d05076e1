"""Weights with all that follows folded in: made once, kept while what they were made of lives and stays as it is."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from fusetune.ops.gemm_scale.library import folded
from fusetune.runtime.configs import forget_at_load

if TYPE_CHECKING:
    import torch

SMALLEST_ROW: Final = 2.0**-13
"""Rows of float16 whose largest element is below have lost digits: the step of its subnormals is 2**-24."""


class FoldedWeights:
    """What was folded, by the weight that it was made of: one copy a weight, gone when the weight is.

    Changes are seen by PyTorch's own counter of them (`_version`), which in-place operations, optimizers and
    load_state_dict move; writes through `.data` do not, and `forget` is for those.
    """

    def __init__(self) -> None:
        self._kept: dict[int, _Fold] = {}
        self._forgotten = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(
        self, tensors: Mapping[str, torch.Tensor], sources: Sequence[torch.Tensor | None], eps: float
    ) -> Mapping[str, torch.Tensor] | None:
        """The constants for these tensors, computed where a source is another or has changed.

        `sources` are the caller's own tensors, the weight first, of which `tensors` are made. None where nothing may be
        folded: inference tensors, whose changes nobody counts, and weights that float16 cannot hold once they are
        scaled. A CUDA graph folds at each replay: it would go on with old weights.
        """
        import torch

        weight = sources[0]
        assert weight is not None, "there is always a weight"
        if any(source is not None and source.is_inference() for source in sources):
            return None
        key = id(_owner(weight))
        fold = self._kept.get(key)
        known = fold is not None and fold.is_of(sources, eps)
        if weight.is_cuda and torch.cuda.is_current_stream_capturing():
            # Not by the config without folded weights: its kernel may not be loaded yet, and cannot be in a capture.
            return None if known and fold is not None and fold.is_unsound else folded(tensors, eps)
        if fold is None or not known:
            before = self._forgotten
            fold = _Fold(tensors, sources, eps, lambda _: self._kept.pop(key, None))
            self._kept[key] = fold
            if before != self._forgotten:  # while it was made, perhaps of what has been written over since
                self._kept.pop(key, None)
        return fold.constants_here()

    def forget(self) -> None:
        """Fold anew at the next call."""
        self._forgotten += 1
        self._kept.clear()


class _Fold:
    """The constants made of some tensors at one moment."""

    def __init__(
        self, tensors: Mapping[str, torch.Tensor], sources: Sequence[torch.Tensor | None], eps: float, on_death: Any
    ) -> None:
        import torch
        from torch.multiprocessing.reductions import StorageWeakRef

        # Before anything is computed: what changes meanwhile, in another thread, makes this one stale.
        self._states = [_state(source) for source in sources]
        self._eps = eps
        # While these are held no other storage is given the same address, so that one compares them safely.
        self._storages = [StorageWeakRef(source.untyped_storage()) for source in sources if source is not None]
        self._alive = [None if source is None else weakref.ref(_owner(source)) for source in sources]
        self._alive[0] = weakref.ref(_owner(sources[0]), on_death)
        self._constants = folded(tensors, eps) if _is_representable(tensors, eps) else None
        self._stream = self._ready = None
        if tensors["weight"].is_cuda:
            self._stream = torch.cuda.current_stream(tensors["weight"].device)
            self._ready = self._stream.record_event()

    @property
    def is_unsound(self) -> bool:
        """Whether these weights cannot be held folded."""
        return self._constants is None

    def is_of(self, sources: Sequence[torch.Tensor | None], eps: float) -> bool:
        """Whether these very tensors are what it was made of, unchanged."""
        return eps == self._eps and all(
            _state(source) == state and (source is None or (alive is not None and alive() is _owner(source)))
            for source, state, alive in zip(sources, self._states, self._alive, strict=True)
        )

    def constants_here(self) -> Mapping[str, torch.Tensor] | None:
        """The constants, ready on the current stream."""
        import torch

        if self._constants is not None and self._stream is not None:
            stream = torch.cuda.current_stream(self._stream.device)
            if stream != self._stream:
                stream.wait_event(self._ready)
                for tensor in self._constants.values():
                    tensor.record_stream(stream)
        return self._constants


def _owner(tensor: Any) -> Any:
    """The tensor that lives as long as the data is the caller's: a module makes some views anew at each call."""
    return tensor._base if tensor._is_view() else tensor


def _state(tensor: Any) -> tuple[Any, ...] | None:
    if tensor is None:
        return None
    place = (tensor.untyped_storage()._cdata, tensor.storage_offset())
    return tensor._version, place, tensor.shape, tensor.stride(), tensor.dtype


def _is_representable(tensors: Mapping[str, torch.Tensor], eps: float) -> bool:
    """Whether the folded weights keep their digits and stay finite; asked once a fold, since it waits for the GPU."""
    import torch

    weight = tensors["weight"]
    with torch.no_grad():
        factor = tensors["gamma"].float() * torch.rsqrt(tensors["running_var"].float() + eps)
        shift = (tensors["bias"].float() * tensors["scale"].float() - tensors["running_mean"].float()) * factor
        rows = weight.abs().amax(1).float() * (tensors["scale"].float() * factor).abs()
        largest = torch.finfo(weight.dtype).max
        sound = (rows <= largest).all() & ((shift + tensors["beta"].float()).abs() <= largest).all()
        if weight.dtype == torch.float16:
            sound &= ((rows == 0) | (rows >= SMALLEST_ROW)).all()
        return bool(sound)


KEPT: Final = FoldedWeights()
"""What this process has folded."""
forget_at_load(KEPT.forget)

"""What is done to modules by those who use PyTorch, and the plain modules to compare ours with.

KINDS are the fused modules beside the same in PyTorch's words. WAYS run or compile a module. CHANGES replace or watch
its parts. WATCHES are on while it is called, and tell what they have seen. `outcome` is all that can be told of a call:
values, dtypes, errors, state and gradients.
"""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call, vmap
from torch.fx import symbolic_trace
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional
from torch.nn.modules import module as of_modules
from torch.nn.utils import parametrizations, parametrize, prune
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from fusetune import FusedLinearScale, FusedLinearScaleBatchNorm, ModelNew

K, N, ROWS = 12, 8, 16


class PlainScale(nn.Module):
    """FusedLinearScale as a user writes it."""

    def __init__(self, fused):
        super().__init__()
        self.gemm, self.scale = copy.deepcopy(fused.gemm), copy.deepcopy(fused.scale)

    def forward(self, x):
        return self.gemm(x) * self.scale


class PlainNorm(nn.Module):
    """ModelNew as a user writes it."""

    def __init__(self, fused):
        super().__init__()
        self.gemm, self.scale, self.bn = (copy.deepcopy(part) for part in (fused.gemm, fused.scale, fused.bn))

    def forward(self, x):
        return self.bn(self.gemm(x) * self.scale)


KINDS = {FusedLinearScale: PlainScale, FusedLinearScaleBatchNorm: PlainNorm, ModelNew: PlainNorm}
"""Each of the fused modules, and what it has to be taken for."""


def pair(kind: type[nn.Module], *, training: bool = True, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    """A fused module and the plain one, of one state."""
    torch.manual_seed(seed)
    ours = kind(K, N, (N,)).train(training)
    plain = KINDS[kind](ours).train(training)
    return ours, plain


def rows(count: int = ROWS, seed: int = 1) -> torch.Tensor:
    """An x."""
    return torch.randn(count, K, generator=torch.Generator().manual_seed(seed))


def outcome(module: nn.Module, call: Callable[[], Any]) -> dict[str, Any]:
    """What a call gives or raises, and what the module is like afterwards."""
    told: dict[str, Any] = {}
    try:
        told["y"] = y = call()
        if isinstance(y, torch.Tensor) and y.requires_grad and y.device.type == "cpu":
            # Not the sum of squares alone, which does not depend on what BatchNorm is given.
            (y.abs().square() * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
    except Exception as error:  # noqa: BLE001 - which one it is, is what is told
        told["error"] = error
    told["state"] = dict(module.state_dict())
    told["grad"] = {name: parameter.grad for name, parameter in module.named_parameters()}
    return told


def assert_same(mine: dict[str, Any], expected: dict[str, Any], **close: float) -> None:
    """The same in all: values within `close`, errors of that kind."""
    if "error" in expected:
        assert "error" in mine, f"the plain module raises {expected['error']!r}"
        same_kind = isinstance(mine["error"], type(expected["error"]))
        assert same_kind, f"{mine['error']!r}, where the plain module raises {expected['error']!r}"
    elif "error" in mine:
        raise AssertionError("the plain module computes this") from mine["error"]
    assert ("y" in mine) == ("y" in expected)
    if "y" in expected:
        _assert_alike("y", mine["y"], expected["y"], close)
    for what in ("state", "grad"):
        assert list(mine[what]) == list(expected[what])
        for name, value in expected[what].items():
            _assert_alike(f"{what} of {name}", mine[what][name], value, close)


def _assert_alike(what: str, mine: Any, expected: Any, close: dict[str, float]) -> None:
    assert type(mine) is type(expected), what
    if isinstance(expected, torch.Tensor):
        seen = [(one.shape, one.dtype, one.device, one.requires_grad) for one in (mine, expected)]
        assert seen[0] == seen[1], what
        if (
            not isinstance(expected, Scaled)
            and expected.device.type == "cpu"
            and type(expected).__name__ != "FakeTensor"
        ):
            close = {"rtol": 1e-4, "atol": 1e-4, **close}
            torch.testing.assert_close(mine, expected, equal_nan=True, **close, msg=lambda text: f"{what}: {text}")
    elif isinstance(expected, tuple | list):
        assert len(mine) == len(expected), what
        for one, other in zip(mine, expected, strict=True):
            _assert_alike(what, one, other, close)
    else:
        assert mine == expected, what


# Ways to run or to compile a module.


def _compiled(**options: Any) -> Callable[[nn.Module, torch.Tensor], Any]:
    def run(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        torch._dynamo.reset()
        made = torch.compile(module, backend="aot_eager", **options)
        made(torch.cat([x, x]))
        return made(x)

    return run


def _compiled_in_autocast(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    torch._dynamo.reset()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return torch.compile(module, backend="aot_eager", fullgraph=True)(x)


def _in_bfloat16(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    torch._dynamo.reset()
    return torch.compile(module.bfloat16(), backend="aot_eager", fullgraph=True)(x.bfloat16())


def _as_onnx_traces(module: nn.Module, x: torch.Tensor) -> list[str]:
    """The operators of a traced graph: all have to be ones that an exporter knows."""
    graph = torch.jit.trace(module, (x,), check_trace=False).inlined_graph
    return [node.kind() for node in graph.nodes() if node.kind().startswith(("aten", "fusetune"))]


def _as_onnx_exports(module: nn.Module, x: torch.Tensor) -> list[str]:
    graph = torch.export.export(module, (x,)).run_decompositions().graph
    return [str(node.target) for node in graph.nodes if node.op == "call_function"]


def _under(context: Callable[[], Any]) -> Callable[[nn.Module, torch.Tensor], Any]:
    def run(module: nn.Module, x: torch.Tensor) -> Any:
        with context():
            return module(x)

    return run


def _meta(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return copy.deepcopy(module).to("meta")(x.to("meta"))


def _fake(module: nn.Module, x: torch.Tensor) -> tuple[Any, ...]:
    with FakeTensorMode() as mode:
        made = functional_call(
            module,
            {name: mode.from_tensor(tensor) for name, tensor in module.state_dict().items()},
            mode.from_tensor(x),
        )
    return tuple(made.shape), made.dtype


def _flops(module: nn.Module, x: torch.Tensor) -> tuple[Any, ...]:
    with FlopCounterMode(display=False) as counter:
        y = module(x)
    return y, counter.get_total_flops()


def _functional(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return functional_call(module, {"scale": 2 * module.scale}, (x,))


def _mapped(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return vmap(module)(torch.stack([x, 2 * x]))


def _gradients(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.func.grad(lambda one: module(one).square().sum())(x)


def _forward_mode(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(module(forward_ad.make_dual(x, torch.ones_like(x)))).tangent


def _batched_gradients(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    y = module(x)
    (found,) = torch.autograd.grad(y, x, torch.stack([torch.ones_like(y), y.detach()]), is_grads_batched=True)
    return found


def _saved(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    module.load_state_dict(torch.load(file))
    return module(x)


def _scripted(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    made = torch.jit.script(module)
    assert list(made.state_dict()) == list(module.state_dict())
    return made(x)


def _replica(module: nn.Module) -> nn.Module:
    made = module._replicate_for_data_parallel()
    made._former_parameters = {}
    for name, child in module._modules.items():
        made._modules[name] = _replica(child)
    for name, parameter in module._parameters.items():
        setattr(made, name, parameter)
    return made


WAYS: dict[str, Callable[[nn.Module, torch.Tensor], Any]] = {
    "eager": lambda module, x: module(x),
    "no_grad": _under(torch.no_grad),
    "inference_mode": _under(torch.inference_mode),
    "compile": _compiled(fullgraph=True),
    "compile dynamic": _compiled(fullgraph=True, dynamic=True),
    "compile in bfloat16": _in_bfloat16,
    "export": lambda module, x: torch.export.export(module, (x,)).module()(x),
    "export strict": lambda module, x: torch.export.export(module, (x,), strict=True).module()(x),
    "jit.trace": lambda module, x: torch.jit.trace(module, (x,), check_trace=False)(x),
    "jit.trace, operators": _as_onnx_traces,
    "export, operators": _as_onnx_exports,
    "jit.script": _scripted,
    "fx.symbolic_trace": lambda module, x: symbolic_trace(module)(x),
    "make_fx": lambda module, x: make_fx(module)(x)(x),
    "functional_call": _functional,
    "vmap": _mapped,
    "func.grad": _gradients,
    "forward mode": _forward_mode,
    "batched gradients": _batched_gradients,
    "meta": _meta,
    "FakeTensorMode": _fake,
    "FlopCounterMode": _flops,
    "autocast": _under(lambda: torch.autocast("cpu", dtype=torch.bfloat16)),
    "autocast, compiled": _compiled_in_autocast,
    "a default device": _under(lambda: torch.device("cpu")),
    "deepcopy": lambda module, x: copy.deepcopy(module)(x),
    "pickle": lambda module, x: pickle.loads(pickle.dumps(module))(x),
    "state_dict": _saved,
    "checkpoint": lambda module, x: checkpoint(module, x, use_reentrant=False),
    "DataParallel's replica": lambda module, x: _replica(module)(x),
}

# What may have been done to the parts.


def _patched(part: str) -> Callable[[nn.Module], None]:
    def change(module: nn.Module) -> None:
        target = getattr(module, part)
        forward = target.forward
        target.forward = lambda x: 3 * forward(x)

    return change


class _DoubledLinear(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class _CalledLinear(nn.Linear):
    def __call__(self, x):
        return 2 * super().__call__(x)


class _Adapter(nn.Module):
    """As those of LoRA: a module around the Linear, with its weight."""

    def __init__(self, base):
        super().__init__()
        self.base, self.low = base, nn.Linear(K, N, bias=False)

    @property
    def weight(self):
        return self.base.weight

    @property
    def bias(self):
        return self.base.bias

    def forward(self, x):
        return self.base(x) + self.low(x)


class Scaled(torch.Tensor):
    """A weight that is not what it holds, as quantized ones: half of it, wherever it is used."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, device=held.device)

    def __init__(self, held):
        self.held = held

    def dequantize(self):
        return 0.5 * self.held

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), named=None):
        if function is torch.ops.aten.detach.default:
            return cls(arguments[0].held)
        if function.namespace != "aten":
            raise NotImplementedError(f"{function} of a quantized weight")
        whole = tree_map(lambda one: one.dequantize() if isinstance(one, cls) else one, (arguments, named or {}))
        return function(*whole[0], **whole[1])


class _Listening(torch.Tensor):
    """A weight that replaces functions, not operators."""

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), named=None):
        with torch._C.DisableTorchFunctionSubclass():
            y = function(*arguments, **(named or {}))
        return 2 * y if function is functional.linear else y


def _quantized(module: nn.Module) -> None:
    module.gemm.weight = nn.Parameter(Scaled(module.gemm.weight.detach()), requires_grad=False)


def _listening(module: nn.Module) -> None:
    weight = module.gemm.weight.detach().as_subclass(_Listening)
    del module.gemm.weight
    module.gemm.register_buffer("weight", weight)


def _offloaded(module: nn.Module) -> None:
    """As accelerate does it: the weights are elsewhere, and come when forward is called."""
    for part in (module, *module.children()):
        held = {name: tensor.detach() for name, tensor in part._parameters.items()}
        buffers = dict(part._buffers)
        before = part.forward

        def forward(*given, part=part, held=held, before=before):
            for name, tensor in held.items():
                part._parameters[name] = nn.Parameter(tensor)
            y = before(*given)
            for name, tensor in held.items():
                part._parameters[name] = nn.Parameter(tensor.to("meta"))
            return y

        for name, tensor in held.items():
            part._parameters[name] = nn.Parameter(tensor.to("meta"))
        part._buffers.update(buffers)
        part.forward = forward


def _same_seed(module: nn.Module, change: Callable[[], Any]) -> None:
    torch.manual_seed(5)
    change()


def _replace(part: str, make: Callable[[], nn.Module]) -> Callable[[nn.Module], None]:
    def change(module: nn.Module) -> None:
        torch.manual_seed(5)
        setattr(module, part, make().train(module.training))

    return change


def _set(part: str, **attributes: Any) -> Callable[[nn.Module], None]:
    def change(module: nn.Module) -> None:
        for name, value in attributes.items():
            setattr(getattr(module, part), name, value)

    return change


def _hooked(part: str, kind: str, hook: Callable[..., Any]) -> Callable[[nn.Module], None]:
    return lambda module: getattr(getattr(module, part), f"register_{kind}_hook")(hook) and None


class _Third(nn.Module):
    def forward(self, held):
        return held / 3


def _scale_of(value: Any) -> Callable[[nn.Module], None]:
    def change(module: nn.Module) -> None:
        del module.scale
        module.scale = value

    return change


def _tied(module: nn.Module) -> None:
    module.scale = module.gemm.bias


def _buffered_scale(module: nn.Module) -> None:
    value = module.scale.detach()
    del module.scale
    module.register_buffer("scale", value)


CHANGES: dict[str, Callable[[nn.Module], Any]] = {
    "gemm.forward patched": _patched("gemm"),
    "a subclass's forward": _replace("gemm", lambda: _DoubledLinear(K, N)),
    "a subclass's __call__": _replace("gemm", lambda: _CalledLinear(K, N)),
    "an adapter": lambda module: setattr(module, "gemm", _replaced(module)),
    "two layers": _replace("gemm", lambda: nn.Sequential(nn.Linear(K, 5), nn.Linear(5, N))),
    "lazy": _replace("gemm", lambda: nn.LazyLinear(N)),
    "bilinear in two": _replace("gemm", lambda: nn.Sequential(nn.Identity(), nn.Linear(K, N, bias=False))),
    "no bias": _replace("gemm", lambda: nn.Linear(K, N, bias=False)),
    "other features": _replace("gemm", lambda: nn.Linear(K, 1)),
    "gemm compiled": lambda module: module.gemm.compile(backend="eager"),
    "a quantized weight": _quantized,
    "a weight that listens": _listening,
    "offloaded": _offloaded,
    "weight_norm": lambda module: parametrizations.weight_norm(module.gemm) and None,
    "weight_norm by a hook": lambda module: torch.nn.utils.weight_norm(module.gemm) and None,
    "spectral_norm": lambda module: _same_seed(module, lambda: parametrizations.spectral_norm(module.gemm)),
    "pruned": lambda module: prune.l1_unstructured(module.gemm, "weight", 0.5) and None,
    "pruned scale": lambda module: prune.l1_unstructured(module, "scale", 0.5) and None,
    "parametrized scale": lambda module: parametrize.register_parametrization(module, "scale", _Third()) and None,
    "a hook": _hooked("gemm", "forward", lambda module, x, y: 2 * y),
    "a pre-hook": _hooked("gemm", "forward_pre", lambda module, x: (2 * x[0],)),
    "a backward hook": _hooked("gemm", "full_backward", lambda module, down, up: tree_map(_double, down)),
    "a backward pre-hook": _hooked("gemm", "full_backward_pre", lambda module, up: tree_map(_double, up)),
    "frozen weights": lambda module: module.gemm.requires_grad_(False) and None,
    "tied weights": _tied,
    "a scale in a buffer": _buffered_scale,
    "a number for a scale": _scale_of(2.5),
    "a whole number for a scale": _scale_of(3),
    "a scale of one dimension more": _scale_of(nn.Parameter(torch.full((1, N), 2.0))),
    "a scale of two dimensions more": _scale_of(nn.Parameter(torch.full((1, 1, N), 2.0))),
    "one scale": _scale_of(nn.Parameter(torch.tensor(2.0))),
    "a scale a row": _scale_of(nn.Parameter(torch.linspace(1, 2, ROWS).unsqueeze(1))),
    "a scale an element": _scale_of(nn.Parameter(torch.linspace(1, 2, ROWS * N).reshape(ROWS, N))),
    "a scale of another length": _scale_of(nn.Parameter(torch.ones(N + 1))),
    "a double scale": _scale_of(torch.linspace(1, 2, N, dtype=torch.float64)),
    "whole scales": _scale_of(torch.arange(N)),
    "yes or no for a scale": _scale_of(torch.arange(N) > 2),
    "a complex scale": _scale_of(torch.full((N,), 1j)),
    "a negative view for a scale": _scale_of(torch.full((N,), 1 + 2j).conj().imag),
    "a sparse scale": _scale_of(torch.linspace(1, 2, N).to_sparse()),
    "no scale": lambda module: delattr(module, "scale"),
    "no gemm": lambda module: setattr(module, "gemm", None),
    "all in double": lambda module: module.double() and None,
    "all in bfloat16": lambda module: module.bfloat16() and None,
    "gemm in bfloat16": lambda module: module.gemm.bfloat16() and None,
}


def _double(one: Any) -> Any:
    return None if one is None else 2 * one


def _replaced(module: nn.Module) -> nn.Module:
    torch.manual_seed(5)
    return _Adapter(module.gemm)


class _DoubledNorm(nn.BatchNorm1d):
    def forward(self, x):
        return 2 * super().forward(x)


def _delete(name: str) -> Callable[[nn.Module], None]:
    return lambda module: delattr(module.bn, name)


NORM_CHANGES: dict[str, Callable[[nn.Module], Any]] = {
    "bn.forward patched": _patched("bn"),
    "bn: a subclass": _replace("bn", lambda: _DoubledNorm(N)),
    "bn: SyncBatchNorm": _replace("bn", lambda: nn.SyncBatchNorm(N)),
    "bn: lazy": _replace("bn", nn.LazyBatchNorm1d),
    "bn: LayerNorm": _replace("bn", lambda: nn.LayerNorm(N)),
    "bn: Identity": _replace("bn", nn.Identity),
    "bn: other features": _replace("bn", lambda: nn.BatchNorm1d(N + 1)),
    "bn: no statistics": _replace("bn", lambda: nn.BatchNorm1d(N, track_running_stats=False)),
    "bn: not affine": _replace("bn", lambda: nn.BatchNorm1d(N, affine=False)),
    "bn: averages": _replace("bn", lambda: nn.BatchNorm1d(N, momentum=None)),
    "bn: momentum 1": _replace("bn", lambda: nn.BatchNorm1d(N, momentum=1)),
    "bn: momentum 0": _replace("bn", lambda: nn.BatchNorm1d(N, momentum=0)),
    "bn: eps 0": _set("bn", eps=0.0),
    "bn: eps below": _set("bn", eps=-1e-9),
    "bn: eps 1": _set("bn", eps=1),
    "bn: frozen": lambda module: module.bn.eval() and None,
    "bn: trains alone": lambda module: module.bn.train() and None,
    "bn: no longer tracking": _set("bn", track_running_stats=False),
    "bn: no gamma": _set("bn", weight=None),
    "bn: no beta": _set("bn", bias=None),
    "bn: no mean": _set("bn", running_mean=None),
    "bn: neither mean nor variance": _set("bn", running_mean=None, running_var=None),
    "bn: nothing counted": _set("bn", num_batches_tracked=None),
    "bn: nothing counted, averages": _set("bn", num_batches_tracked=None, momentum=None),
    "bn: counted in floats": _set("bn", num_batches_tracked=torch.tensor(3.0)),
    "bn: counted in two": _set("bn", num_batches_tracked=torch.tensor([3, 4])),
    "bn: no counter at all": _delete("num_batches_tracked"),
    "bn: no variance at all": _delete("running_var"),
    "bn in double": lambda module: module.bn.double() and None,
    "bn in bfloat16": lambda module: module.bn.bfloat16() and None,
    "bn alone in float32": lambda module: module.bfloat16().bn.float() and None,
    "bn's gamma in double": _set("bn", weight=nn.Parameter(torch.ones(N, dtype=torch.float64))),
    "a hook on bn": _hooked("bn", "forward", lambda module, x, y: 2 * y),
    "a pre-hook on bn": _hooked("bn", "forward_pre", lambda module, x: (x[0].abs(),)),
    "a backward hook on bn": _hooked("bn", "full_backward", lambda module, down, up: tree_map(_double, down)),
    "bn compiled": lambda module: module.bn.compile(backend="eager"),
}

# Who may look on.


class Operators(TorchDispatchMode):
    """The operators that are called."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        self.seen.append(str(function))
        return function(*arguments, **(named or {}))


class Functions(TorchFunctionMode):
    """The functions that are called."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, arguments=(), named=None):
        if getattr(function, "__name__", "") != "__get__":  # an attribute that was looked at
            self.seen.append(function)
        return function(*arguments, **(named or {}))


@contextlib.contextmanager
def _mode(make: Callable[[], Any]) -> Iterator[list[Any]]:
    with make() as mode:
        yield mode.seen


@contextlib.contextmanager
def _put(holder: Any, name: str) -> Iterator[list[Any]]:
    """Another function in the place of PyTorch's own, which doubles what that gives."""
    seen: list[Any] = []
    original = getattr(holder, name)

    def mine(*given: Any, **named: Any) -> Any:
        y = original(*given, **named)
        seen.append(tuple(y.shape))
        return 2 * y

    setattr(holder, name, mine)
    try:
        yield seen
    finally:
        setattr(holder, name, original)


@contextlib.contextmanager
def _own_put(holder: Any, name: str) -> Iterator[list[Any]]:
    """The same of a class that inherits it."""
    inherited = name not in vars(holder)
    with _put(holder, name) as seen:
        yield seen
    if inherited:
        delattr(holder, name)


@contextlib.contextmanager
def _on_all(kind: str) -> Iterator[list[Any]]:
    """A hook on all modules, which names the parts that it sees."""
    seen: list[Any] = []

    def hook(module: nn.Module, *rest: Any) -> None:
        if type(module).__module__.startswith("torch."):
            seen.append(type(module).__name__)

    handle = getattr(of_modules, f"register_module_{kind}_hook")(hook)
    try:
        yield seen
    finally:
        handle.remove()


WATCHES: dict[str, Callable[[], contextlib.AbstractContextManager[list[Any]]]] = {
    "operators": lambda: _mode(Operators),
    "functions": lambda: _mode(Functions),
    "Linear.forward": lambda: _put(nn.Linear, "forward"),
    "BatchNorm1d.forward": lambda: _own_put(nn.BatchNorm1d, "forward"),
    "the forward of all norms": lambda: _put(nn.modules.batchnorm._BatchNorm, "forward"),
    "Linear.__call__": lambda: _own_put(nn.Linear, "__call__"),
    "BatchNorm1d.__call__": lambda: _own_put(nn.BatchNorm1d, "__call__"),
    "Module.__call__": lambda: _put(nn.Module, "__call__"),
    "Module._call_impl": lambda: _put(nn.Module, "_call_impl"),
    "functional.linear": lambda: _put(functional, "linear"),
    "functional.batch_norm": lambda: _put(functional, "batch_norm"),
    "a hook on all": lambda: _on_all("forward"),
    "a pre-hook on all": lambda: _on_all("forward_pre"),
    "a backward hook on all": lambda: _on_all("full_backward"),
    "a backward pre-hook on all": lambda: _on_all("full_backward_pre"),
}

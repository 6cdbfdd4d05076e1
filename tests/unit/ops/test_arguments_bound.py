"""Arguments of a launch by name, as Python binds them."""

from __future__ import annotations

import inspect
import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from fusetune.ops.arguments import bind


def kernel(x, n, BLOCK=64, *, WIDE=True):
    raise AssertionError(x, n, BLOCK, WIDE)


KERNEL = SimpleNamespace(signature=inspect.signature(kernel), fn=kernel)


def outcome(function: Any, *args: Any, **named: Any) -> Any:
    try:
        return list(function(*args, **named).items())
    except TypeError:
        return TypeError


def test_they_are_bound_as_python_does_and_what_does_not_fit_is_a_type_error():
    signature = KERNEL.signature
    seen = []
    for count, names, partly in itertools.product(
        range(5),
        itertools.chain.from_iterable(itertools.combinations(("x", "n", "BLOCK", "WIDE"), k) for k in range(5)),
        (False, True),
    ):
        args, named = tuple(range(count)), {name: f"by {name}" for name in reversed(names)}

        def expected(*args: Any, partly: bool = partly, **named: Any) -> dict[str, Any]:
            bound = (signature.bind_partial if partly else signature.bind)(*args, **named)
            bound.apply_defaults()
            return dict(bound.arguments)

        found = outcome(lambda *a, partly=partly, **k: bind(KERNEL, a, k, partly=partly)[0], *args, **named)
        if count < 4:  # Triton takes the last by place as well
            assert found == outcome(expected, *args, **named), (args, named)
        seen.append(found)
    assert TypeError in seen


def test_what_is_no_argument_is_an_option_but_for_settings():
    assert bind(KERNEL, (1, 2), {"num_warps": 4, "debug": True})[1] == {"num_warps": 4}


@pytest.mark.parametrize("args", [(1,), (1, 2), (1, 2, 3)], ids=len)
def test_arguments_behind_a_star_are_given_to_no_one_name(args: tuple[int, ...]) -> None:
    """As kernels of Triton 3.8 may have: of two arguments the second was taken for all that are behind the star."""

    def many(x: Any, *more: Any) -> None:
        raise AssertionError(x, more)

    for partly in (False, True):
        with pytest.raises(TypeError, match=r"what it takes as \*more has no names"):
            bind(SimpleNamespace(signature=inspect.signature(many), fn=many), args, {}, partly=partly)

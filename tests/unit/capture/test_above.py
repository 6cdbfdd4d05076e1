"""What is watched of tuners, and that it is given back."""

from __future__ import annotations

from typing import Any

from triton.runtime import Autotuner

from fusetune.capture.watch import Watch


class Before(Autotuner):
    def run(self, *args: Any, **kwargs: Any) -> Any:
        return super().run(*args, **kwargs)


def test_tuners_that_derive_from_triton_s_are_watched_whenever_they_are_made_and_given_back():
    own, triton_s = vars(Before)["run"], vars(Autotuner)["run"]
    watch = Watch()
    watch.install()
    try:

        class Between(Before):
            def _bench(self, *args: Any, **kwargs: Any) -> Any:
                return [1.0] * 3

        assert vars(Before)["run"] is not own
        assert vars(Between)["_bench"].__name__ == "trial"
        assert "run" not in vars(Between)
    finally:
        watch.remove()
    assert (vars(Before)["run"], vars(Autotuner)["run"]) == (own, triton_s)
    assert vars(Between)["_bench"].__name__ == "_bench"
    assert "__init_subclass__" not in vars(Autotuner)

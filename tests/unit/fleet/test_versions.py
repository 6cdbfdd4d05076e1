"""What a worker runs is compared with what the client runs, and each difference has a name."""

from __future__ import annotations

from msgspec import structs

from fusetune.fleet.versions import differences, versions_here, why_unlike
from fusetune.fleet.words import Seen

OURS = {"fusetune": "0.1.0", "torch": "2.11.0", "triton": "3.6.0", "python": "3.12.3"}
SEEN = Seen("w0", "GPU-0", "NVIDIA H200", "9.0", driver="580.1", **OURS)


def test_a_worker_like_the_client_is_used() -> None:
    assert why_unlike(SEEN, OURS) is None
    assert differences(SEEN, (), OURS) == []


def test_a_worker_with_another_triton_and_no_torch_is_not_used_and_both_are_named() -> None:
    unlike = structs.replace(SEEN, triton="3.5.1", torch=None)
    assert why_unlike(unlike, OURS) == (
        "torch not installed, here 2.11.0, triton 3.5.1, here 3.6.0; install the same there"
    )


def test_another_driver_than_a_worker_of_the_same_model_is_told() -> None:
    beside = structs.replace(SEEN, worker="w1", card="GPU-1", driver="575.9")
    assert differences(SEEN, (beside,), OURS) == ["driver 580.1, where w1 has 575.9"]
    assert differences(SEEN, (structs.replace(beside, gpu="NVIDIA H100"),), OURS) == []


def test_another_patch_release_of_python_is_not_worth_a_word() -> None:
    assert differences(structs.replace(SEEN, python="3.12.9"), (), OURS) == []
    assert differences(structs.replace(SEEN, python="3.11.9"), (), OURS) == ["Python 3.11.9, here 3.12.3"]


def test_what_is_installed_here_is_known_without_loading_it() -> None:
    here = versions_here()
    assert here["triton"]
    assert here["torch"]

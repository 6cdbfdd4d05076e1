from __future__ import annotations

import against_autotune
import pytest


@pytest.mark.parametrize("name", ["attention", "matmul", "softmax"])
def test_each_list_has_about_a_hundred_configs_and_none_twice(name: str):
    module = against_autotune.loaded(name)
    assert 90 <= len(module.CONFIGS) <= 120
    assert len({str(config) for config in module.CONFIGS}) == len(module.CONFIGS)


def test_a_chosen_config_is_given_as_its_list_would_give_it():
    module = against_autotune.loaded("attention")
    config = {
        "WIDTH": 64,
        "BLOCK_M": 64,
        "BLOCK_N": 32,
        "num_warps": 4,
        "num_stages": 3,
        "num_ctas": 1,
        "maxnreg": None,
    }
    assert against_autotune.given_to(module, config) == {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 4, "num_stages": 3}

"""The look at config.json refuses no model that is served."""

import json

import pytest
import transformers

from tests.worker.families import COMMON, FAMILIES, Family
from worker.loading.checkpoint.preflight import _check_config


@pytest.mark.parametrize("family", [family for family in FAMILIES if family.is_served], ids=lambda family: family.name)
def test_the_config_of_every_family_that_is_served_passes(family: Family) -> None:
    config_class = getattr(transformers, family.config_class)
    for config in (config_class(**(COMMON | family.settings)), config_class()):
        _check_config(json.loads(config.to_json_string(use_diff=False)))
        _check_config(json.loads(config.to_json_string()))

"""Parameters keep their values on the way from one message to the next."""

from dataclasses import fields

from hypothesis import given

from gateway.domain.generation_config import EarlyStopping, EffectiveConfig, GenerationConfig
from gateway.domain.request import OutputOptions
from gateway.workers.protocol import read_config, write_config
from tests.gateway.configs import configs
from textserve.v1 import generation_pb2 as pb


def test_every_parameter_of_the_api_is_known() -> None:
    names = {field.name for field in pb.GenerationConfig.DESCRIPTOR.fields}

    assert {field.name for field in fields(GenerationConfig)} == names
    assert {field.name for field in fields(EffectiveConfig)} == names
    assert {field.name for field in fields(OutputOptions)} == {
        field.name for field in pb.OutputOptions.DESCRIPTOR.fields
    }


def test_the_values_of_early_stopping_are_those_of_the_api() -> None:
    assert {f"EARLY_STOPPING_{value.name}": value.value for value in EarlyStopping} == {
        name: number for name, number in pb.EarlyStopping.items() if number
    }


@given(configs())
def test_what_is_written_is_read_again(config: GenerationConfig) -> None:
    assert read_config(write_config(config)) == config


def test_nothing_that_is_unset_is_written() -> None:
    assert write_config(GenerationConfig()) == pb.GenerationConfig()
    assert read_config(pb.GenerationConfig()) == GenerationConfig()


def test_zeros_are_values() -> None:
    zeros = GenerationConfig(temperature=0.0, top_k=0, min_new_tokens=0, do_sample=False, seed=0, forced_bos_token_id=0)

    assert read_config(write_config(zeros)) == zeros

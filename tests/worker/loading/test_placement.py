"""What may be said about where a model goes."""

from typing import Any

import pytest

from worker.loading.placement import check_accelerators, is_cpu_alone, parse_device_map, parse_max_memory


@pytest.mark.parametrize(
    "text", ["auto", "balanced", "balanced_low_0", "sequential", "cpu", "cuda", "cuda:1", "mps", "xpu:0"]
)
def test_strategies_and_devices_are_taken_as_they_are(text: str) -> None:
    assert parse_device_map(text) == text


def test_a_json_object_maps_modules_to_devices() -> None:
    text = '{"model.layers.0": 0, "model.layers.1": "cuda:1", "lm_head": "cpu", "model.norm": "disk"}'
    assert parse_device_map(text) == {
        "model.layers.0": 0,
        "model.layers.1": "cuda:1",
        "lm_head": "cpu",
        "model.norm": "disk",
    }


@pytest.mark.parametrize(
    "text", ["", "everywhere", "disk", "meta", "cpu:", "{", "{}", '{"a": -1}', '{"a": true}', '{"a": null}', "[0]"]
)
def test_other_device_maps_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_device_map(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("0=20GiB", {0: 20 * 2**30}),
        ("0=1.5GiB, 1=500MiB,cpu=2GB,disk=3MB", {0: 3 * 2**29, 1: 500 * 2**20, "cpu": 2 * 10**9, "disk": 3 * 10**6}),
    ],
)
def test_memory_is_given_device_by_device_with_units(text: str, expected: Any) -> None:
    assert parse_max_memory(text) == expected


@pytest.mark.parametrize("text", ["20GiB", "0=20", "0=20gib", "0=-1GiB", "tape=1GiB", "=1GiB", "0=1GiB;1=1GiB"])
def test_other_memory_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_max_memory(text)


@pytest.mark.parametrize(
    ("device_map", "alone"),
    [
        ("cpu", True),
        ("auto", False),
        ({"": "cpu"}, True),
        ({"a": "cpu", "b": "disk"}, False),
        ({"a": "cpu", "b": 0}, False),
    ],
)
def test_only_a_map_to_nothing_but_the_cpu_is_the_cpu_alone(device_map: Any, *, alone: bool) -> None:
    assert is_cpu_alone(device_map) is alone


@pytest.mark.parametrize(
    ("device_map", "memory", "needed"),
    [
        ("auto", None, 0),
        ("cpu", {"cpu": 1, "disk": 1}, 0),
        ("cuda", None, 1),
        ("cuda:2", None, 3),
        ({"a": 1, "b": "cpu"}, None, 2),
        ("auto", {0: 1, 3: 1}, 4),
    ],
)
def test_a_gpu_that_is_named_has_to_be_there(device_map: Any, memory: Any, needed: int) -> None:
    check_accelerators(device_map, memory, needed)
    if needed:
        with pytest.raises(ValueError, match=f"{needed - 1} GPUs are visible"):
            check_accelerators(device_map, memory, needed - 1)

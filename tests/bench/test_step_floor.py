import torch

from bench.step_floor import StepFloor
from bench.timing import medians


def without_kernel() -> StepFloor:
    return StepFloor([], [], [torch.ones(8, 4), torch.ones(6, 4)], torch.ones(10, 4))


def test_where_the_cpu_has_no_kernel_the_floor_is_that_of_resident_matrices() -> None:
    floor = without_kernel()
    assert not floor.has_kernel
    assert [product.shape for product in floor.linear_products(2)] == ["resident 8x4", "resident 6x4"]
    assert set(floor.prefill_rates(64, repeats=1)) == {"resident"}


def test_a_product_computes_its_output_with_so_many_rows() -> None:
    product = without_kernel().head_product(3)
    product.out.fill_(float("nan"))
    product.run()
    assert product.out.shape == (3, 10)
    assert product.out.isfinite().all()


def test_a_step_has_a_floor_for_each_number_of_rows() -> None:
    floors = without_kernel().step_ms([1, 2], repeats=3)
    assert set(floors) == {1, 2}
    assert all(time > 0 for time in floors.values())


def test_what_is_compared_takes_turns_after_a_run_that_is_not_counted() -> None:
    order: list[str] = []
    medians([lambda: order.append("a"), lambda: order.append("b")], repeats=2)
    assert order == ["a", "b"] * 3

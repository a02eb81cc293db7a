"""Every error becomes a status with details, in the domain of the service."""

import pytest
from google.rpc import code_pb2, error_details_pb2  # type: ignore[import-untyped]

from gateway.api.rich_status import DOMAIN, rich_status
from gateway.domain import errors
from gateway.domain.errors import Code, ServiceError, Violation

ALL = [
    errors.invalid_request([Violation("a", "X", "is bad"), Violation("b", "Y", "is bad, too")]),
    errors.undecodable(),
    errors.unknown_fields(["generation_config.99", "12"]),
    errors.message_too_large(5, 4),
    errors.model_not_found("gpt", "tutor"),
    errors.unknown_service("nope"),
    errors.unknown_method("/textserve.v1.GenerationService/Nope"),
    errors.request_id_taken("order-7"),
    errors.queue_full(3, 1.5),
    errors.wait_too_long(3.0, 2.0, 1.0),
    errors.tenant_quota("acme", 3, 1.5, unit="prompt tokens"),
    errors.slow_reader(7),
    errors.no_worker(),
    errors.worker_lost("worker-0", "it has been silent for 4 s"),
    errors.draining(),
    errors.deadline_exceeded(2, "queue"),
    errors.deadline_unreachable(3.0, 1.0),
    errors.generation_failed("NON_FINITE_LOGITS"),
    errors.poison_request(),
    errors.internal(),
]


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.reason)
def test_every_error_has_a_code_and_an_error_info(error: ServiceError) -> None:
    status = rich_status(error)

    info = error_details_pb2.ErrorInfo()
    assert status.code == code_pb2.Code.Value(error.code.name)
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == (DOMAIN, error.reason)
    assert status.message == error.message


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.reason)
def test_every_invalid_argument_names_fields_and_every_exhausted_resource_a_quota(error: ServiceError) -> None:
    kinds = {packed.TypeName() for packed in rich_status(error).details}

    assert ("google.rpc.BadRequest" in kinds) == (error.code in {Code.INVALID_ARGUMENT, Code.ALREADY_EXISTS})
    assert ("google.rpc.QuotaFailure" in kinds) == (error.code is Code.RESOURCE_EXHAUSTED)
    assert ("google.rpc.RetryInfo" in kinds) == (error.retry_after_s is not None)


def test_the_list_of_errors_here_is_complete() -> None:
    makers = [
        name
        for name, maker in vars(errors).items()
        if getattr(maker, "__annotations__", {}).get("return") is ServiceError
    ]

    assert len(makers) == len(ALL)


def test_violations_that_share_a_reason_give_it_to_the_error() -> None:
    one = Violation("text", "PROMPT_TOO_LONG", "is too long")
    other = Violation("seed", "OUT_OF_RANGE", "is negative")

    assert errors.invalid_request([one]).reason == "PROMPT_TOO_LONG"
    assert errors.invalid_request([one, other]).reason == "INVALID_REQUEST"


def test_the_largest_status_fits_into_the_metadata() -> None:
    violations = [Violation(f"chat.messages[{i}].role", "REQUIRED", "x" * 150) for i in range(1000)]

    assert len(rich_status(errors.invalid_request(violations)).SerializeToString()) < 6000
    assert len(rich_status(errors.model_not_found("\N{PILE OF POO}" * 10**6, "tutor")).SerializeToString()) < 2000

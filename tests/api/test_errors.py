"""Status objects have the words and numbers that clients parse."""

import pytest

from raykube.api import errors
from raykube.api.errors import ApiError
from raykube.api.resources import builtin

PODS = builtin("v1", "Pod")
DEPLOYMENTS = builtin("apps/v1", "Deployment")

CASES = [
    (errors.not_found(PODS, "x"), 404, "NotFound", 'pods "x" not found'),
    (errors.already_exists(DEPLOYMENTS, "x"), 409, "AlreadyExists", 'deployments.apps "x" already exists'),
    (
        errors.conflict(PODS, "x"),
        409,
        "Conflict",
        (
            'Operation cannot be fulfilled on pods "x": the object has been modified; please apply your changes to the '
            "latest version and try again"
        ),
    ),
    (errors.forbidden(PODS, "x", "no"), 403, "Forbidden", 'pods "x" is forbidden: no'),
    (errors.forbidden(DEPLOYMENTS, "", "no"), 403, "Forbidden", "deployments.apps is forbidden: no"),
    (errors.forbidden(None, "", "no"), 403, "Forbidden", "forbidden: no"),
    (errors.unauthorized(), 401, "Unauthorized", "Unauthorized"),
    (errors.internal("boom"), 500, "InternalError", "Internal error occurred: boom"),
    (errors.timeout("slow"), 504, "Timeout", "Timeout: slow"),
    (errors.too_large(), 413, "RequestEntityTooLarge", "Request entity is too large: limit is 3145728"),
    (
        errors.method_not_allowed(DEPLOYMENTS, "delete"),
        405,
        "MethodNotAllowed",
        'delete is not supported on resources of kind "deployments.apps"',
    ),
]


@pytest.mark.parametrize(("error", "code", "reason", "message"), CASES)
def test_words(error: ApiError, code: int, reason: str, message: str) -> None:
    status = error.status()
    assert (status["code"], status["reason"], status["message"]) == (code, reason, message)
    assert (status["kind"], status["apiVersion"], status["status"]) == ("Status", "v1", "Failure")


@pytest.mark.parametrize("case", CASES)
def test_a_client_rebuilds_the_error(case: tuple[ApiError, int, str, str]) -> None:
    again = ApiError.from_status(case[0].status())
    assert again.status() == case[0].status()
    assert str(again) == case[3]


def test_one_cause_stands_bare_and_more_in_brackets_once_each() -> None:
    one = errors.required("spec.containers")
    two = errors.not_supported("spec.restartPolicy", "x", ["Always", "Never"])
    assert str(errors.invalid(PODS, "p", [one])) == 'Pod "p" is invalid: spec.containers: Required value'
    error = errors.invalid(DEPLOYMENTS, "p", [one, two, one])
    assert str(error) == (
        'Deployment.apps "p" is invalid: [spec.containers: Required value, '
        'spec.restartPolicy: Unsupported value: "x": supported values: "Always", "Never"]'
    )
    assert error.status()["details"] == {
        "name": "p",
        "group": "apps",
        "kind": "Deployment",
        "causes": [
            {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.containers"},
            {
                "reason": "FieldValueNotSupported",
                "message": 'Unsupported value: "x": supported values: "Always", "Never"',
                "field": "spec.restartPolicy",
            },
        ],
    }
    assert error.causes == [one, two]


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        (errors.invalid_value("a", 'q"', "bad"), 'a: Invalid value: "q\\"": bad'),
        (errors.invalid_value("a", -1, "bad"), "a: Invalid value: -1: bad"),
        (errors.invalid_value("a", True, "bad"), "a: Invalid value: true: bad"),
        (errors.invalid_value("a", {"b": "c"}, "bad"), 'a: Invalid value: {"b":"c"}: bad'),
        (errors.invalid_value("a", None, "bad"), "a: Invalid value: null: bad"),
        (errors.duplicate("a", "x"), 'a: Duplicate value: "x"'),
        (errors.forbidden_field("a", "no"), "a: Forbidden: no"),
        (errors.too_long("a", 5), "a: Too long: may not be more than 5 bytes"),
        (errors.required("a", "why"), "a: Required value: why"),
    ],
)
def test_causes(cause: errors.Cause, text: str) -> None:
    assert str(cause) == text


def test_an_old_revision_says_when_to_come_back() -> None:
    error = ApiError.revision_too_large(9, 7)
    assert error.code == 504
    assert error.retry_after_s == 1
    assert error.causes[0].reason == "ResourceVersionTooLarge"
    assert str(error) == "Timeout: Too large resource version: 9, current: 7"
    assert errors.too_many_requests("busy", 3).retry_after_s == 3


def test_a_status_with_nothing_in_it_is_still_an_error() -> None:
    assert ApiError.from_status({}).code == 500

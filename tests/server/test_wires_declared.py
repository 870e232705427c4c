"""The Anthropic and Responses wires as the page of the API declares them, under requests made from that page."""

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from scripted import ScriptedHost

from holdfast.server.http.app import create_app
from holdfast.server.http.settings import Settings

PAGE = schemathesis.openapi.from_asgi(
    "/openapi.json", create_app(ScriptedHost(), Settings(names=frozenset({"testserver"})))
)


@PAGE.include(path_regex="^/v1/(messages|responses)").parametrize()
@settings(suppress_health_check=list(HealthCheck))
def test_every_response_is_as_declared(case):
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    case.call_and_validate(checks=checks)

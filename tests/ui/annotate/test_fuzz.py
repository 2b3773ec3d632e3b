"""The annotation API against requests made from its own description: whatever comes, no 5xx."""

import os
from collections import Counter
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from storage.workspace import Workspace
from tests.ui.annotate.test_routes import answer

schemathesis = pytest.importorskip("schemathesis")

REQUESTS = int(os.environ.get("CLINIC_FUZZ_REQUESTS", "80"))
"""A share of the suite's time; CLINIC_FUZZ_REQUESTS=5000 is the long form."""
SEED = int(os.environ.get("CLINIC_FUZZ_SEED", "0"))
"""Other seeds ask for other things, so that a long form can be run in pieces."""
ABSENT_SERVICE = ("/api/v1/annotate/assist", 503)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_request_from_the_description_breaks_the_server(
    client_of: Callable[..., TestClient], workspace: Workspace
) -> None:
    client = client_of("curator", raise_server_exceptions=False)
    description = client.get("/api/openapi.json").json()
    annotation = ("/api/v1/annotate/", "/api/v1/images/")
    description["paths"] = {
        path: one for path, one in description["paths"].items() if path.startswith(annotation)
    }
    schema = schemathesis.openapi.from_dict(description)
    operations = [found.ok() for found in schema.get_all_operations()]
    cases = st.one_of(
        [
            operation.as_strategy(generation_mode=mode)
            for operation in operations
            for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
        ]
    )
    seen: Counter[int] = Counter()
    broken: list[str] = []

    @seed(SEED)
    @settings(
        max_examples=REQUESTS,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def ask(case: object) -> None:
        request = case.as_transport_kwargs(base_url="http://127.0.0.1:7860")  # type: ignore[attr-defined]
        request.pop("cookies", None)
        token = {"X-Clinic-CSRF": client.headers["X-Clinic-CSRF"]}
        kept = {name: value for name, value in request.pop("headers", {}).items() if name.isascii()}
        try:
            response = client.request(headers={**kept, **token}, **request)
        except (UnicodeError, ValueError, TypeError):
            return  # no client can put that on the wire
        seen[response.status_code] += 1
        if response.status_code >= 500 and (request["url"][21:], response.status_code) != ABSENT_SERVICE:
            broken.append(f"{request['method']} {request['url']}: {response.status_code}")

    ask()
    assert not broken, broken[:5]
    assert sum(seen.values()) > 0.8 * REQUESTS and seen[200] and seen[422], seen
    task = client.get("/api/annotate/next")
    if task.status_code == 200:
        assert client.post("/api/annotate/submit", json=answer(task.json())).status_code in (200, 409)

"""The OpenAPI description of all JSON routes, with what FastAPI cannot know: roles, tokens, stable ids."""

import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from fastapi import FastAPI

from ui.reference.summaries import SUMMARIES
from ui.web.access import PUBLIC, AccessTable, role_words, within
from ui.web.bearer import BROWSER_ONLY
from ui.web.errors import ERRORS, Problem
from ui.web.versions import API, VERSION, VERSIONED

LONGEST = 100
"""Characters of a summary."""
HIDDEN = ("/api/docs", "/api/openapi.json")
METHODS = ("get", "post", "put", "patch", "delete")
TAGS = {
    "annotate": "Annotating: images under leases, drafts, submits",
    "images": "Pixels and artifact maps",
    "curate": "Searching, selecting, reviewing, benchmarks",
    "import": "Uploads and imports",
    "train": "Training, measuring and promoting detectors",
    "treat": "Treating generators",
    "rounds": "Rounds, jobs, lineage",
    "jobs": "Single jobs",
    "queue": "The order of the job queue",
    "models": "Registered models",
    "studies": "Opening and reading blind comparisons",
    "study": "Judging in a blind comparison",
    "invitations": "Invitations of raters",
    "admin": "Downloads for admins",
    "session": "Who is signed in",
    "login": "Signing in with a browser",
    "logout": "Signing out",
    "account": "The own account, with a browser",
}
"""What operations are grouped by, which is the first part of their path, and what each group is about."""
ABOUT = (
    "Send an API token as `Authorization: Bearer clinic_…`. Create one under Account, or on the server with "
    '`clinic tokens --create`. Every refusal is a status of 400 or more and `{"error": "one sentence"}`. '
    f"Paths without `/{VERSION}` remain for pages and earlier programs."
)


def describe_api(app: FastAPI, access: AccessTable) -> dict[str, Any]:
    """The OpenAPI document, whose paths begin with `/api/v1`."""
    found: dict[str, Any] = deepcopy(app.openapi())
    found["info"] = {"title": "Artifact Clinic", "version": VERSION.removeprefix("v"), "description": ABOUT}
    found["paths"] = {
        VERSIONED + path.removeprefix(API): {
            method: described(operation, method, path, access)
            for method, operation in operations.items()
            if method in METHODS
        }
        for path, operations in sorted(found["paths"].items())
        if within(path, API) and path not in HIDDEN
    }
    used = {operation["tags"][0] for each in found["paths"].values() for operation in each.values()}
    found["tags"] = [{"name": name, "description": text} for name, text in TAGS.items() if name in used]
    components = found.setdefault("components", {})
    components.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API token"},
        "session": {"type": "apiKey", "in": "cookie", "name": "clinic_session_PORT"},
    }
    return found


def described(operation: dict[str, Any], method: str, path: str, access: AccessTable) -> dict[str, Any]:
    """One operation with summary, id, tag, roles, security and refusals."""
    roles, own = access.allowed_roles(path), SUMMARIES.get(f"{method.upper()} {path}")
    text = operation.get("description", "")
    summary = own or first_clause(text)
    public = roles == PUBLIC
    said = ["" if text.rstrip(".") == summary else text, "" if public else f"Roles: {role_words(roles)}."]
    refusals = ("422",) if public else ("401", "403", "422")
    responses = {
        status: {**answer, "content": answer.get("content") or problem_content()}
        if status in refusals
        else answer
        for status, answer in operation["responses"].items()
    }
    for status in refusals:
        responses[status] = {"description": ERRORS[int(status)]["description"], "content": problem_content()}
    in_browser = any(within(path, one) for one in BROWSER_ONLY)
    return {
        **operation,
        "summary": summary,
        "description": "\n\n".join(one for one in said if one),
        "operationId": operation_id(method, path),
        "tags": [path.split("/")[2].partition(".")[0]],
        "responses": responses,
        "security": [] if public else [{"session": []}] if in_browser else [{"bearer": []}, {"session": []}],
        "x-roles": [] if public else sorted(roles),
    }


def first_clause(text: str) -> str:
    """A docstring's first sentence, or what it says up to a colon or semicolon where that is long."""
    sentence = " ".join(re.split(r"\.\s|\n\n", text, maxsplit=1)[0].split()).rstrip(".")
    return sentence if len(sentence) <= LONGEST else re.split(r"[:;,] ", sentence, maxsplit=1)[0]


def problem_content() -> dict[str, Any]:
    """The body of every refusal."""
    return {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


def operation_id(method: str, path: str) -> str:
    """An id that stays as long as method and path do: `get_curate_images_by_image_id`."""
    words = re.sub(r"\{(\w+)\}", r"by_\1", path.removeprefix(f"{API}/"))
    return f"{method}_{re.sub(r'[^A-Za-z0-9]+', '_', words)}"


def sections(document: dict[str, Any]) -> list[dict[str, Any]]:
    """What the page shows: each tag with its operations, their parameters and the fields of their bodies."""
    schemas = document["components"]["schemas"]
    shown: dict[str, list[dict[str, Any]]] = {tag["name"]: [] for tag in document["tags"]}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            shown[operation["tags"][0]].append(
                {
                    "id": operation["operationId"],
                    "method": method.upper(),
                    "path": path,
                    "summary": operation["summary"],
                    "description": operation["description"],
                    "parameters": list(parameters_of(operation)),
                    "body": list(fields_of(operation, schemas)),
                    "responses": {code: one["description"] for code, one in operation["responses"].items()},
                }
            )
    return [
        {"name": tag["name"], "about": tag["description"], "operations": shown[tag["name"]]}
        for tag in document["tags"]
    ]


def parameters_of(operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The parameters in path and query."""
    for one in operation.get("parameters", ()):
        if one["in"] in ("path", "query"):
            required = one.get("required", False)
            yield {
                "name": one["name"],
                "where": one["in"],
                "type": type_of(one["schema"]),
                "required": required,
            }


def fields_of(operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The fields of the JSON body."""
    content = operation.get("requestBody", {}).get("content", {})
    schema: dict[str, Any] = next((one["schema"] for one in content.values()), {})
    schema = schemas.get(schema.get("$ref", "").rpartition("/")[2], schema)
    for name, field in schema.get("properties", {}).items():
        required = name in schema.get("required", ())
        yield {"name": name, "where": "body", "type": type_of(field), "required": required}


def type_of(schema: dict[str, Any]) -> str:
    """A schema in words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema or "const" in schema:
        return " | ".join(f'"{one}"' for one in schema.get("enum", [schema.get("const")]))
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " | ".join(dict.fromkeys(type_of(one) for one in schema[key]))
    if schema.get("type") == "array":
        return f"list of {type_of(schema.get('items', {}))}"
    return str(schema.get("type", "any"))

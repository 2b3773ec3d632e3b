"""The routes of the API's description: the document and its page, open to everybody."""

from typing import Any

from fastapi import APIRouter, Request, Response

from ui.reference.description import describe_api, sections
from ui.web.desk import Site, access_table
from ui.web.pages import render


def reference_routes(site: Site) -> APIRouter:
    """The OpenAPI document at /api/openapi.json, and what it says as a page at /api/docs."""
    routes = APIRouter(include_in_schema=False)
    access = access_table(site.desks)
    made: dict[str, Any] = {}

    def document(request: Request) -> dict[str, Any]:
        if not made:  # all routes are there only once the app is built
            made.update(describe_api(request.app, access))
        return made

    @routes.get("/api/openapi.json")
    def description(request: Request) -> dict[str, Any]:
        return document(request)

    @routes.get("/api/docs")
    def page(request: Request) -> Response:
        found = document(request)
        return render("reference/page.html", info=found["info"], sections=sections(found))

    return routes

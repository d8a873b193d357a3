"""The page at /docs: Swagger UI over the OpenAPI document, served whole by this server, so that it works offline."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

#: Path of the documentation page.
DOCS = "/docs"

router = APIRouter(include_in_schema=False)

#: Swagger UI as the package `fastapi-offline` ships it.
_FILES = StaticFiles(packages=[("fastapi_offline", "static")])


@router.get(DOCS)
async def documentation(request: Request) -> HTMLResponse:
    """Return the page. Its links are relative, so that they hold below any route prefix."""
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title=request.app.title,
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon.png",
    )


@router.get("/docs/{name}")
async def documentation_file(request: Request, name: str) -> Response:
    """Return a file that the page loads."""
    return await _FILES.get_response(name, request.scope)

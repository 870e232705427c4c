"""The page of the API at /docs, written from the OpenAPI of the application: no script, and nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from holdfast.web.pages import PAGE_HEADERS

router = APIRouter(include_in_schema=False)
METHODS = ("get", "post", "put", "patch", "delete")
_PAGE = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <title>{title}: the API</title>
  <link rel="stylesheet" href="page/page.css">
</head>
<body>
  <header><h1>{title} {version}</h1><p class="hint">{about} The same as data: <a href="openapi.json">openapi.json</a>.</p></header>
  <main class="api">{body}</main>
</body>
</html>
"""  # noqa: E501


@router.get("/docs")
def docs(request: Request) -> HTMLResponse:
    """Sends the page."""
    return HTMLResponse(render_docs(request.app.openapi()), headers=PAGE_HEADERS)


def render_docs(api: Mapping[str, Any]) -> str:
    """Returns the page of an OpenAPI document."""
    info = api["info"]
    tags: dict[str, list[str]] = {}
    for path, operations in api["paths"].items():
        for method in (method for method in METHODS if method in operations):
            tag = (operations[method].get("tags") or ["Other"])[0]
            tags.setdefault(tag, []).append("".join(_operation(path, method, operations[method])))
    body = "".join(f"<h2>{escape(tag)}</h2>{''.join(parts)}" for tag, parts in tags.items())
    body += "<h2>Values</h2>" + "".join(map(_schema, sorted(api.get("components", {}).get("schemas", {}).items())))
    texts = {"title": info["title"], "version": info["version"], "about": info.get("description", "")}
    return _PAGE.format(body=body, **{name: escape(text) for name, text in texts.items()})


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f'<details class="card"><summary><b>{method.upper()}</b> <code>{escape(path)}</code> '
    yield f"{escape(operation.get('description') or operation.get('summary', ''))}</summary>"
    parameters = [(one["name"], one["schema"], one.get("required"), one) for one in operation.get("parameters", [])]
    if parameters:
        yield f"<h3>Parameters</h3>{_fields(parameters)}"
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<h3>Body</h3><p>{_type(content.get('schema', {}))}, as <code>{escape(kind)}</code></p>"
    rows = []
    for status, answer in operation.get("responses", {}).items():
        content = answer.get("content", {}).items()
        kinds = " or ".join(
            _type(one["schema"]) if one.get("schema") else f"<code>{escape(kind)}</code>" for kind, one in content
        )
        rows.append(f"<dt><code>{escape(status)}</code></dt><dd>{escape(answer.get('description', ''))} {kinds}</dd>")
    yield f"<h3>Answers</h3><dl>{''.join(rows)}</dl></details>"


def _schema(named: tuple[str, Mapping[str, Any]]) -> str:
    name, schema = named
    required = schema.get("required", ())
    fields = [(key, value, key in required, value) for key, value in schema.get("properties", {}).items()]
    text = f"<p>{escape(schema.get('description', ''))}</p>{_fields(fields)}"
    return f'<details class="card" id="{escape(name)}"><summary><code>{escape(name)}</code></summary>{text}</details>'


def _fields(fields: Sequence[tuple[str, Mapping[str, Any], bool | None, Mapping[str, Any]]]) -> str:
    rows = []
    for name, schema, required, about in fields:
        needed = "" if required else ", optional"
        text = escape(str(about.get("description", "")))
        rows.append(f"<dt><code>{escape(name)}</code> {_type(schema)}{needed}</dt><dd>{text}</dd>")
    return f"<dl>{''.join(rows)}</dl>"


def _type(schema: Mapping[str, Any]) -> str:
    """Returns a type in words, with links to the named ones."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(map(_type, schema[key])))
    if "enum" in schema or "const" in schema:
        return " or ".join(
            f"<code>{escape(json.dumps(value))}</code>" for value in schema.get("enum", [schema.get("const")])
        )
    kind = escape(str(schema.get("type", "any value")))
    return f"list of {_type(schema['items'])}" if kind == "array" and "items" in schema else kind

"""The interface as one HTML page, from its OpenAPI description: no scripts, nothing from elsewhere."""

from __future__ import annotations

import json
from typing import Any

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{{ info.title }}: interface</title>
<style>body{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}table{border-collapse:collapse}
td,th{border-bottom:1px solid #ccc;padding:.2rem .8rem;text-align:left;vertical-align:top}pre{background:#f4f4f4;
padding:.8rem;overflow:auto}code{font-family:ui-monospace,monospace}</style>
<h1>{{ info.title }}</h1><p>{{ info.summary }}. The same as data: <a href="openapi.json">openapi.json</a>.</p>
{% for path, methods in paths.items() %}{% for method, call in methods.items() %}
<h2><code>{{ method | upper }} {{ path }}</code></h2><p>{{ call.summary }}</p>
{% if call.parameters %}<table><tr><th>query</th><th>type</th><th></th></tr>{% for one in call.parameters %}
<tr><td><code>{{ one.name }}</code></td><td>{{ kind(one.schema) }}</td><td>{{ one.description }}</td></tr>{% endfor %}
</table>{% endif %}
{% if call.requestBody %}<pre>curl --json '{{ example }}' http://127.0.0.1:8000{{ path }}</pre>{% endif %}
<table><tr><th>status</th><th></th></tr>{% for status, answer in call.responses.items() %}
<tr><td>{{ status }}</td><td>{{ answer.description }}</td></tr>{% endfor %}</table>
{% endfor %}{% endfor %}
{% for name, schema in schemas.items() %}<h2 id="{{ name }}">{{ name }}</h2><p>{{ schema.description }}</p>
<table><tr><th>field</th><th>type</th><th></th></tr>{% for field, of in schema.properties.items() %}<tr>
<td><code>{{ field }}</code>{% if field in schema.required %} *{% endif %}</td><td>{{ kind(of) }}</td>
<td>{{ of.description }}</td></tr>{% endfor %}</table>{% endfor %}<p>* must be there</p></html>"""
LEFT_OUT = ("HTTPValidationError", "ValidationError")  # FastAPI's own, whose form ours replaces


def docs_page(openapi: dict[str, Any]) -> str:
    """Return the page."""
    from jinja2 import Environment

    schemas = {n: s for n, s in openapi["components"]["schemas"].items() if n not in LEFT_OUT}
    example = json.dumps(schemas["Review"]["examples"][0])
    page = Environment(autoescape=True).from_string(PAGE)
    return page.render(info=openapi["info"], paths=openapi["paths"], schemas=schemas, example=example, kind=kind)


def kind(schema: dict[str, Any]) -> str:
    """Return the type of a field in words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(kind(one) for one in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {kind(schema['items'])}"
    bounds = [f"{schema[key]:g}" for key in ("minimum", "maximum") if key in schema]
    return " ".join([str(schema.get("type", "any")), *(["from", " to ".join(bounds)] if bounds else [])])

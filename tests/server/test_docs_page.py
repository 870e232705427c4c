"""The page of the API shows every path, value and field without a script, and loads nothing from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from fastapi.testclient import TestClient
from scripted import ScriptedHost

from holdfast.server.http.app import create_app
from holdfast.server.http.docs_page import render_docs


class Reader(HTMLParser):
    """The text, the addresses and the anchors of a page; tags must close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.links, self.ids, self.tags, self.open = "", list[str](), set[str](), set[str](), list[str]()
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        self.ids |= {value or "" for name, value in attrs if name == "id"}
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(create_app(ScriptedHost()), base_url="http://localhost")


def test_every_path_and_field_is_shown_and_every_link_leads_somewhere(client: TestClient) -> None:
    api, page = client.get("/openapi.json").json(), Reader(client.get("/docs").text)
    for path, operations in api["paths"].items():
        assert all(f"{method.upper()} {path}" in page.text for method in operations)
    for name, schema in api["components"]["schemas"].items():
        assert name in page.ids
        assert all(field in page.text for field in schema.get("properties", {}))
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(client: TestClient) -> None:
    answer = client.get("/docs")
    page = Reader(answer.text)
    assert not {"script", "iframe", "img"} & page.tags
    assert not [link for link in page.links if re.match(r"[a-z]+:|//", link)]
    assert client.get("/page/page.css").status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_what_a_description_says_is_text() -> None:
    api = {
        "info": {"title": "<b>", "version": "1"},
        "paths": {"/<i>": {"get": {"description": "<script>1</script>", "responses": {"200": {"description": "&"}}}}},
    }
    page = Reader(render_docs(api))
    assert "script" not in page.tags
    assert "<script>1</script>" in page.text

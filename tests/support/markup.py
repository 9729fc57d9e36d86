"""What the tests ask of a page, found with the standard library's HTML parser."""

from __future__ import annotations

import base64
import hashlib
from html.parser import HTMLParser
from pathlib import Path

from pytest_proofpack import report

SHOWN = '<script>alert(1)</script>"\' onload=alert(2) x="</style></svg><img src=//evil.example/x>'
"""The part of :data:`HOSTILE` that a reader sees as it is; what follows it is shown as escapes."""
HOSTILE = SHOWN + "\u202e\x1b[31m\ud800\n"

URL_ATTRIBUTES = ("href", "src", "srcset", "action", "data", "poster", "xlink:href", "background", "formaction")
ACTIVE_ELEMENTS = frozenset(
    ["script", "iframe", "object", "embed", "form", "link", "base", "img", "image", "use", "foreignobject"]
)


def _digest_of(name: str) -> str:
    """Return how a content security policy names a file of the package's."""
    data = (Path(report.__file__).parent / "templates" / name).read_bytes()
    return f"sha256-{base64.b64encode(hashlib.sha256(data).digest()).decode()}"


class Page(HTMLParser):
    """A parsed page: its elements, URLs, text, and the rows of its tables."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.terms: list[list[str]] = []
        self._in_cell = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True
        elif tag in ("dt", "dd"):
            self.terms.append([tag, ""])

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] in {"style", "script"}:
            return
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data
        if self.terms:
            self.terms[-1][1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "tr"):
            self._in_cell = False

    def row(self, name: str) -> list[str]:
        """The first row that begins with ``name``, its cells without surrounding space."""
        stripped = [[cell.strip() for cell in row] for row in self.rows]
        return next(row for row in stripped if row and row[0] == name)

    def term(self, name: str) -> str:
        """What the first entry of a list of facts says that is called ``name``."""
        texts = [(tag, text.strip()) for tag, text in self.terms]
        return texts[texts.index(("dt", name)) + 1][1]

    @property
    def urls(self) -> list[str]:
        return [attrs[name] for _, attrs in self.elements for name in URL_ATTRIBUTES if name in attrs]


def assert_inert(html: str, script: str = "", home: str = "") -> Page:
    """Make sure that a page runs nothing, loads nothing and leads nowhere outside of its pack; return it parsed.

    Args:
        html: the page.
        script: name of the one script of the package's that it may hold; without a name none.
        home: the one URL that may lead to a folder above its own.
    """
    page = Page(html)
    html.encode()
    tags = [tag for tag, _ in page.elements]
    assert not set(tags) & (ACTIVE_ELEMENTS - {"script"})
    assert tags.count("script") == bool(script)
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on") or name == "style"]
    outside = [url for url in page.urls if ":" in url or url.startswith(("/", "\\")) or ".." in url]
    assert outside == ([home] if home else [])
    assert "@import" not in html
    assert "url(" not in html
    policies = [attrs["content"] for tag, attrs in page.elements if attrs.get("http-equiv")]
    style, own = _digest_of("style.css"), f"script-src '{_digest_of(script)}'; " if script else ""
    assert policies == [f"default-src 'none'; style-src '{style}'; {own}base-uri 'none'; form-action 'none'"]
    assert [attrs for tag, attrs in page.elements if tag == "html"] == [{"lang": "en"}]
    assert [tag for tag, _ in page.elements].count("h1") == 1
    assert all("scope" in attrs for tag, attrs in page.elements if tag == "th")
    assert not {"\u202e", "\x1b"} & set(html)
    return page

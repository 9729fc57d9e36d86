"""Pages in headless Chromium: what a reader would see, at several widths, in both schemes and on paper."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WIDTHS = (375, 768, 1280)
PAPER = 718
"""The width of an A4 sheet between margins of 10 mm, in pixels of CSS."""
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_INSTALL = (
    "apt-get install chromium (or name one with PROOFPACK_CHROMIUM), and pip install 'pytest-proofpack[test]'. The "
    "tests of the pages' markup run without it."
)

FLAWS = """() => {
  const found = [], said = e => `${e.tagName}.${e.getAttribute("class") || ""} ${e.textContent.trim().slice(0, 40)}`;
  const page = document.documentElement;
  if (page.scrollWidth > window.innerWidth) found.push(`the page is ${page.scrollWidth} wide`);
  for (const element of document.body.querySelectorAll("*")) {
    if (element.closest("svg") || ["inline", "none", "contents"].includes(getComputedStyle(element).display)) continue;
    const clipped = element.clientWidth > 0 && element.scrollWidth > element.clientWidth + 1;
    if (clipped) found.push(`clipped: ${said(element)}`);
    const box = element.getBoundingClientRect();
    if (box.width > 0 && (box.right > window.innerWidth + 1 || box.left < -1)) found.push(`outside: ${said(element)}`);
  }
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const holder = texts.currentNode.parentElement;
    const parts = texts.currentNode.data.match(/\\d (%|[kMG]i?B\\b|nats\\b)|\\d{4}-\\d\\d-\\d\\dT/g);
    if (!parts || getComputedStyle(holder).whiteSpace === "nowrap" || holder.getClientRects().length === 0) continue;
    if (!holder.closest("svg, pre, details, tr.text")) found.push(`a line may end in: ${parts[0]}`);
  }
  for (const figure of document.querySelectorAll("svg[role=img]")) {
    const frame = figure.getBoundingClientRect();
    const boxes = [...figure.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
    for (const [index, [text, box]] of boxes.entries()) {
      if (box.width === 0) continue;
      if (box.left < frame.left - 8 || box.right > frame.right + 8) found.push(`outside of its figure: ${text}`);
      for (const [other, place] of boxes.slice(index + 1)) {
        const beside = box.left >= place.right - 1 || place.left >= box.right - 1;
        const below = box.top >= place.bottom - 3 || place.top >= box.bottom - 3;
        if (!beside && !below) found.push(`on top of each other: ${text}, ${other}`);
      }
    }
  }
  return found;
}"""
"""Says what is clipped, outside of the page or its figure, printed over something else, or broken between lines.

A number stays with its unit, whatever the width; in what is folded away, names and texts stand as they are.
"""
HEADINGS = "() => [...document.querySelectorAll('h1, h2, h3, h4, h5')].map(heading => Number(heading.tagName[1]))"
OPEN = "() => document.querySelectorAll('details').forEach(details => { details.open = true; })"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield a browser, or skip where there is none."""
    found = os.environ.get("PROOFPACK_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip(f"no Chromium: {_INSTALL}")
    playwright = pytest.importorskip("playwright.sync_api", reason=f"no Playwright: {_INSTALL}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, path: Path, **context: Any) -> Iterator[tuple[Page, list[str]]]:
    """Yield a page that was loaded from a file, and what it complained of or asked for since."""
    pages = browser.new_context(**context)
    page, heard = pages.new_page(), []
    page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("request", lambda request: heard.append(f"request: {request.url}"))
    page.goto(path.as_uri())
    heard.remove(f"request: {path.as_uri()}")
    yield page, heard
    pages.close()


def keep(page: Page, name: str) -> None:
    """Keep a picture of a page where PROOFPACK_SCREENSHOTS names a directory."""
    if folder := os.environ.get("PROOFPACK_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)

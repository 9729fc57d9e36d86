"""Makes the files at the top of the repository pages of the site, and links hold on the forge and in the site.

On the forge, README.md links to ``docs/formats.md``, and a page in docs/ to ``../CHANGELOG.md``. In the site, where
README.md is the front page, these are ``formats.md`` and ``changelog.md``. What is no page is a link to the repository.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
_LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each of the files at the top that are there."""
    for source, page in PAGES.items():
        if (ROOT / source).is_file():
            files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a page, which hold in the repository, into links of the site."""
    source = next((name for name, own in PAGES.items() if own == page.file.src_uri), f"docs/{page.file.src_uri}")
    folder = posixpath.dirname(page.file.src_uri)

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        own = PAGES.get(target, target.removeprefix("docs/"))
        if target.startswith("docs/") or own in files.src_uris:
            return match[1] + posixpath.relpath(own, folder or ".")
        return f"{match[1]}{config.extra['repository']}/blob/main/{target}" if (ROOT / target).exists() else match[0]

    return _LINK.sub(link, markdown)

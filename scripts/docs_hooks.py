"""What the documentation's build does besides: see mkdocs.yml."""

from __future__ import annotations

import html.parser
import logging
import pathlib
import posixpath
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

log = logging.getLogger("mkdocs.plugins.docs_hooks")

# Links out of docs/, which lead to files of the repository.
OUTWARD = re.compile(r"\[([^\]]+)\]\((\.\./[^)\s]+)\)")
STYLE_URL = re.compile(r"""@import\s+["']([^"']+)|url\(\s*["']?([^"')]+)""")
LOADING = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src",),
    "img": ("src", "srcset"),
    "input": ("src",),
    "link": ("href",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "track": ("src",),
    "video": ("src", "poster"),
}


def on_page_markdown(
    markdown: str, *, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Lead to the repository, or nowhere while it has no address."""

    def lead(match: re.Match[str]) -> str:
        text, target = match.groups()
        repository = config.extra.get("repository")
        if not repository:
            return text
        path = posixpath.normpath(posixpath.join("docs", target))
        return f"[{text}]({repository}/blob/main/{path})"

    return OUTWARD.sub(lead, markdown)


def on_post_build(*, config: MkDocsConfig) -> None:
    """Warn of whatever a page would fetch from elsewhere."""
    site = pathlib.Path(config.site_dir)
    for page in site.rglob("*.html"):
        loads = Loads()
        loads.feed(page.read_text())
        for url in loads.urls:
            _check(url, page.relative_to(site))
    for style in site.rglob("*.css"):
        for match in STYLE_URL.finditer(style.read_text()):
            _check(match[1] or match[2], style.relative_to(site))


def _check(url: str, where: pathlib.Path) -> None:
    if re.match(r"(\w+:)?//", url):
        log.warning("%s fetches %s", where, url)


class Loads(html.parser.HTMLParser):
    """The addresses that a browser fetches by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._in_style = tag == "style"
        if tag == "link" and values.get("rel") in ("canonical", "next", "prev"):
            return
        for name in LOADING.get(tag, ()):
            self.urls += re.split(r",\s+", values.get(name, ""))
        self._add_style(values.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self._add_style(data)

    def _add_style(self, text: str) -> None:
        self.urls += [m[1] or m[2] for m in STYLE_URL.finditer(text)]

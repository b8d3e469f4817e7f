"""What follows the build of the documentation, whoever has built it.

    python scripts/docs_site.py site [REPOSITORY]

Links to files of the repository lead to its address, or nowhere while it has none.
Fails, and says where, on a dead link or anchor, and on a page that would fetch anything
from elsewhere.
"""

from __future__ import annotations

import html.parser
import pathlib
import posixpath
import re
import sys
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

ROOT = pathlib.Path(__file__).resolve().parent.parent

LINK = re.compile(r'<a\b[^>]*?\bhref="(\.\./[^"#]+)"[^>]*>(.*?)</a>', re.DOTALL)
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


class Page(html.parser.HTMLParser):
    """What a page fetches by itself, where it leads to, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self._in_style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._in_style = tag == "style"
        self.anchors |= {values.get("id", ""), values.get("name", "")}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "link" and values.get("rel") in ("canonical", "next", "prev"):
            return
        for name in LOADING.get(tag, ()):
            self.loads += re.split(r",\s+", values.get(name, ""))
        self._add_style(values.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self._add_style(data)

    def _add_style(self, text: str) -> None:
        self.loads += style_urls(text)


Pages = dict[pathlib.Path, Page]


def main(site: pathlib.Path, repository: str = "") -> int:
    for file in site.rglob("*.html"):
        lead_out(file, site, repository)
    pages = {file.resolve(): Page(file.read_text()) for file in site.rglob("*.html")}
    problems = sorted({*dead_links(pages, site), *fetched(pages, site)})
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def lead_out(file: pathlib.Path, site: pathlib.Path, repository: str) -> None:
    """Turn the links to files of the repository into such to its address."""

    def lead(match: re.Match[str]) -> str:
        target, text = match.groups()
        path = posixpath.normpath(target)
        while path.startswith("../"):
            path = path.removeprefix("../")
        if (file.parent / target).exists() or not (ROOT / path).exists():
            return match[0]
        return (
            f'<a href="{repository}/blob/main/{path}">{text}</a>'
            if repository
            else text
        )

    text = file.read_text()
    file.write_text(LINK.sub(lead, text))


def dead_links(pages: Pages, site: pathlib.Path) -> Iterator[str]:
    for file, page in pages.items():
        if file.name == "404.html":
            # It is served anywhere, and its links are the server's.
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith("/"):
                continue
            target = file
            if parts.path:
                target = (file.parent / unquote(parts.path)).resolve()
            if target.is_dir():
                target /= "index.html"
            where = file.relative_to(site.resolve())
            anchors = pages[target].anchors if target in pages else set()
            if not target.exists():
                yield f"{where}: {link} leads nowhere"
            elif parts.fragment and unquote(parts.fragment) not in anchors:
                yield f"{where}: {link} has no such anchor"


def fetched(pages: Pages, site: pathlib.Path) -> Iterator[str]:
    """What is not of the site, and would be fetched."""
    for file, page in pages.items():
        yield from foreign(page.loads, file.relative_to(site.resolve()))
    for file in site.rglob("*.css"):
        yield from foreign(style_urls(file.read_text()), file.relative_to(site))


def foreign(urls: list[str], where: pathlib.Path) -> Iterator[str]:
    for url in urls:
        if re.match(r"(\w+:)?//", url):
            yield f"{where} fetches {url}"


def style_urls(text: str) -> list[str]:
    return [match[1] or match[2] for match in STYLE_URL.finditer(text)]


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]), *sys.argv[2:]))

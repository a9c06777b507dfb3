"""Helpers for tests of HTML pages, with a parser and a browser."""

import subprocess
from html.parser import HTMLParser
from pathlib import Path


class Elements(HTMLParser):
    """Tags, attribute names, links and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
# Phone scrollbars overlay the page; others take 15 px, sometimes after the page was measured.
FLAGS += " --hide-scrollbars"
QUIET = "--disable-background-networking --disable-component-update --enable-logging=stderr"


def browse(chromium: str, url: str, tmp_path: Path, *flags: str) -> subprocess.CompletedProcess:
    """Open a URL in headless Chromium."""
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    return subprocess.run(
        [chromium, *FLAGS.split(), *QUIET.split(), profile, *flags, url],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )


FRAME_PAGE = """<!DOCTYPE html><iframe id="page" style="width: {width}px; height: 800px"></iframe>
<pre id="result"></pre>
<script>
  const frame = document.getElementById("page");
  frame.onload = () => {{
    const page = frame.contentDocument, images = [...page.images];
    document.getElementById("result").textContent = JSON.stringify({{
      images: images.length,
      loaded: images.filter(image => image.naturalWidth > 0).length,
      wide: page.documentElement.scrollWidth - page.documentElement.clientWidth,
      paper: getComputedStyle(page.body).backgroundColor,
    }});
  }};
  frame.srcdoc = {page};
</script>"""

"""A Chromium without a window, driven by its DevTools protocol: open a page, wait, look, click."""

import asyncio
import base64
import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-sync", "--disable-background-networking", "--disable-component-update"),
    *("--hide-scrollbars", "--remote-debugging-port=0", "--disable-dev-shm-usage"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # this machine, and no other
)
START_S = 60  # 1 s on a calm machine
BEAT_S = 0.1
WHERE = """
(text, inside) => {
  const own = (e) => [e.innerText, e.getAttribute('aria-label'), e.placeholder, e.title];
  const kinds = 'button,a,[role],input,label,span,div,td,th,p';
  const found = [...document.querySelectorAll(inside)].flatMap(
    (part) => [...part.querySelectorAll(kinds)]).filter(
    (e) => own(e).some((t) => (t || '').trim() === text) && e.getClientRects().length);
  const last = found.filter((e) => !found.some((f) => f !== e && e.contains(f)))[0];
  if (!last) return null;
  last.scrollIntoView({block: 'center'});
  const box = last.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
}
"""


class Page:
    """The one tab of a browser."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        self._ask = ask
        """Sends a command of the DevTools protocol; returns its result."""

    def open(self, url: str) -> None:
        """Go there; what the page loads later is for `until` to wait for."""
        self._ask("Page.navigate", url="about:blank")  # so that `#/other` is a new page as well
        self._ask("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """What a JavaScript expression comes to in the page."""
        found = self._ask("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    @property
    def text(self) -> str:
        """All that can be read on it."""
        return self.run("document.body ? document.body.innerText : ''")

    def until(self, script: str, *, within_s: float = 40) -> Any:
        """Wait for an expression to be true, and return it.

        Raises:
            TimeoutError: it stayed false; says what the page shows instead.
        """
        deadline = time.monotonic() + within_s
        while not (found := self.run(script)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"never true: {script}; the page shows: {self.text[:2000]}")
            time.sleep(BEAT_S)
        return found

    def until_shown(self, *texts: str, within_s: float = 40) -> None:
        """Wait for texts to stand on the page."""
        for text in texts:
            self.until(f"document.body?.innerText.includes({json.dumps(text)})", within_s=within_s)

    def click(self, text: str, *, inside: str = "body", within_s: float = 40) -> None:
        """Click on what has this text, label or placeholder, as a mouse does.

        `inside` is the CSS selector of the part of the page where it is.
        """
        found = f"({WHERE})({json.dumps(text)}, {json.dumps(inside)})"
        x, y = self.until(found, within_s=within_s)
        self.press(x, y)

    def press(self, x: float, y: float) -> None:
        """The left button, at a place in pixels of the window."""
        self._ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """The left button, held from one place to another."""
        self._ask("Input.dispatchMouseEvent", type="mouseMoved", x=start[0], y=start[1])
        for kind, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def choose(self, selector: str, path: Path) -> None:
        """A file, for the file input that a CSS selector finds."""
        document = self._ask("DOM.getDocument")["root"]["nodeId"]
        found = self._ask("DOM.querySelector", nodeId=document, selector=selector)
        self._ask("DOM.setFileInputFiles", nodeId=found["nodeId"], files=[str(path.resolve())])

    def type(self, text: str) -> None:
        """Into what has the focus."""
        self._ask("Input.insertText", text=text)

    def key(self, name: str, code: int) -> None:
        """Press a key such as ArrowLeft (37), Enter (13) or Escape (27)."""
        for kind in ("rawKeyDown", "keyUp"):
            self._ask("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)

    def keep(self, path: Path) -> None:
        """Write what the window shows, as PNG."""
        found = self._ask("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(found["data"]))


@contextmanager
def browsing(chromium: str, folder: Path, *, width: int, height: int) -> Iterator[Page]:
    """A browser with an empty profile below `folder`, for as long as the context is open."""
    profile = folder / "profile"
    command = [chromium, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
    with (folder / "chromium.txt").open("wb") as log:
        process = subprocess.Popen([*command, "about:blank"], stdout=log, stderr=log, start_new_session=True)
    loop = asyncio.new_event_loop()
    try:
        port = _port(profile / "DevToolsActivePort", process)
        session, ask = loop.run_until_complete(_connected(port))
        try:
            page = Page(lambda method, **more: loop.run_until_complete(ask(method, **more)))
            page._ask(
                "Emulation.setDeviceMetricsOverride",
                **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
            )
            yield page
        finally:
            loop.run_until_complete(session.close())
    finally:
        loop.close()
        os.killpg(process.pid, signal.SIGKILL)  # the browser and its helpers, started just above
        process.wait(30)


def _port(note: Path, process: subprocess.Popen[bytes]) -> int:
    """Where it listens: it chooses a port, and writes it into its profile."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        if note.is_file() and "\n" in (text := note.read_text()):
            return int(text.splitlines()[0])
        time.sleep(BEAT_S)
    raise RuntimeError(f"no browser: exit code {process.poll()}")


async def _connected(port: int) -> tuple[aiohttp.ClientSession, Callable[..., Awaitable[Any]]]:
    session = aiohttp.ClientSession()
    async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
        tab = next(t for t in await answer.json() if t["type"] == "page")
    socket = await session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0)
    numbers = itertools.count()

    async def ask(method: str, **more: Any) -> Any:
        number = next(numbers)
        await socket.send_json({"id": number, "method": method, "params": more})
        while (found := await socket.receive_json(timeout=60)).get("id") != number:
            pass  # an event
        if "error" in found:
            raise RuntimeError(f"{method}: {found['error']}")
        return found["result"]

    return session, ask

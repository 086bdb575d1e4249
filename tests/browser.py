"""A headless Chromium for the tests, spoken to over its DevTools protocol.

Source: https://chromedevtools.github.io/devtools-protocol/
"""

import json
import os
import re
import shutil
import subprocess
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--hide-scrollbars"),
)
_LISTENING = ("--remote-debugging-port=0",)
IN_CI = os.environ.get("CI") == "true"


class Tab:
    """One page of the browser; ``requested`` are the URLs that it asked for."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = count(1)
        self.requested: list[str] = []
        self._loaded = 0
        for domain in ("Page", "Network", "Runtime"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command; returns its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            said = self._heard()
            if said.get("id") == number:
                assert "error" not in said, said
                result: dict[str, Any] = said["result"]
                return result

    def _heard(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self._socket.recv(timeout=30))
        if said.get("method") == "Network.requestWillBeSent":
            self.requested.append(said["params"]["request"]["url"])
        if said.get("method") == "Page.loadEventFired":
            self._loaded += 1
        return said

    def open(self, url: str) -> None:
        """Go to an address, and wait until it is there."""
        with self.loading():
            self("Page.navigate", url=url)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Wait until what is done here has loaded a page."""
        before = self._loaded
        yield
        while self._loaded == before:
            self._heard()

    def value(self, expression: str) -> Any:
        """Return the value of an expression, which needs no scripts to be on in the page."""
        return self("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get(
            "value"
        )

    def press(self, selector: str) -> None:
        """Click on the middle of an element."""
        middle = (
            "(e => { e.scrollIntoView(); const r = e.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2] })"
        )
        x, y = self.value(f"{middle}(document.querySelector('{selector}'))")
        for kind in ("mousePressed", "mouseReleased"):
            self("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector: str, text: str) -> None:
        """Type into a field."""
        self.press(selector)
        self("Input.insertText", text=text)

    def picture(self) -> bytes:
        """Return the whole page as a PNG."""
        return b64decode(self("Page.captureScreenshot", captureBeyondViewport=True)["data"])


@contextmanager
def tab(profile: Path, *, width: int = 360, dark: bool = False) -> Iterator[Tab]:
    """Open a page of a phone's width with scripts switched off.

    Without a browser the test is skipped, but fails where ``CI`` is ``true``.
    """
    if BROWSER is None:
        assert not IN_CI, "there is no chromium, which .ci/run installs"
        pytest.skip("no chromium on this machine (on Debian: apt-get install chromium)")
    browser = subprocess.Popen(
        [BROWSER, *OPTIONS, *_LISTENING, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with connect(_address(profile), max_size=None) as socket:
            page = Tab(socket)
            page("Emulation.setScriptExecutionDisabled", value=True)
            page(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=740,
                deviceScaleFactor=1,
                mobile=width < 600,
            )
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            page("Emulation.setEmulatedMedia", features=[scheme])
            yield page
            page("Browser.close")
        browser.wait(timeout=20)
    finally:
        browser.kill()
        browser.wait()


def _address(profile: Path) -> str:
    """Return where the browser's first page listens."""
    file, deadline = profile / "DevToolsActivePort", time.monotonic() + 30
    while not file.exists() or "\n" not in file.read_text():
        assert time.monotonic() < deadline, "chromium did not start"
        time.sleep(0.05)
    port, path = file.read_text().split("\n")[:2]
    with connect(f"ws://127.0.0.1:{port}{path}") as socket:
        socket.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
        while (said := json.loads(socket.recv(timeout=30))).get("id") != 1:
            pass
    target = next(t for t in said["result"]["targetInfos"] if t["type"] == "page")
    return f"ws://127.0.0.1:{port}/devtools/page/{target['targetId']}"


def widest_in_a_frame(page: str, width: int, folder: Path) -> str:
    """Return ``W of V``: how wide a page is in a frame of a width, and how much of that is seen.

    Measured by a script inside the page, whose policy is taken off for it.
    """
    assert BROWSER is not None
    page = re.sub(r"<meta http-equiv=[^>]*>", "", page)
    measuring = (
        "<script>document.title = document.documentElement.scrollWidth + ' of ' +"
        " document.documentElement.clientWidth</script></body>"
    )
    (folder / "inner.html").write_text(page.replace("</body>", measuring), encoding="utf-8")
    outer = folder / "outer.html"
    outer.write_text(
        f"<!doctype html><iframe src='inner.html' width='{width}' height='900'"
        " style='border:0'></iframe>"
        "<script>addEventListener('load', () => { document.title ="
        " document.querySelector('iframe').contentDocument.title })</script>",
        encoding="utf-8",
    )
    dumped = subprocess.run(
        [
            BROWSER,
            *OPTIONS,
            "--allow-file-access-from-files",
            f"--user-data-dir={folder / 'profile'}",
            "--dump-dom",
            outer.as_uri(),
        ],
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    ).stdout
    found = re.search(r"<title>(\d+ of \d+)</title>", dumped)
    assert found is not None, dumped
    return found[1]

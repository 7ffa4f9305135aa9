"""A page in a real Chromium, driven over its own protocol: nothing but the browser is needed."""

import asyncio
import atexit
import base64
import functools
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM: Final = next(filter(None, map(shutil.which, _NAMES)), None)
_PATIENCE_S: Final = 60
_OPTIONS: Final = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    "--disable-features=IsolateSandboxedIframes",  # else a frame is a page of its own
    # Every name is this machine: a page on any of them could be one of the internet.
    "--host-resolver-rules=MAP *.example 127.0.0.1",
    *("--remote-debugging-port=0", "--no-startup-window"),
)

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed: apt-get install chromium"
)

_LISTENING: Final = re.compile(r"(\d+)\n(/devtools/browser/[-0-9a-f]{36})")


class BrowserPage:
    """One tab.

    Attributes:
        said: what was written to the console, and what failed.
        requested: the URLs that it asked for.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Of a tab, or of the whole browser: each has a socket."""
        self.said: list[str] = []
        self.requested: list[str] = []
        self.dialogs = 0
        self._socket = socket
        self._contexts: list[int] = []
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._reading = asyncio.create_task(self._read())
        self._last = 0

    async def close(self) -> None:
        self._reading.cancel()
        with suppress(asyncio.CancelledError):
            await self._reading

    async def call(self, method: str, **params: Any) -> Any:
        self._last += 1
        answer = self._answers[self._last] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": self._last, "method": method, "params": params})
        async with asyncio.timeout(_PATIENCE_S):
            return await answer

    async def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        done = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def until(self, script: str) -> Any:
        """Wait until an expression is true; its value."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while not (value := await self.run(script)):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
                return value
        except TimeoutError:
            text = await self.run("document.body.innerText")
            pytest.fail(f"never: {script}\n{self.said}\n{text}")

    async def open(self, url: str) -> None:
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def resize(self, width: int, height: int, *, scheme: str = "light") -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **size)
        await self.prefer(color_scheme=scheme)

    async def prefer(self, **features: str) -> None:
        """What the reader prefers: ``reduced_motion="reduce"``."""
        named = {f"prefers-{name.replace('_', '-')}": value for name, value in features.items()}
        media = [{"name": name, "value": value} for name, value in named.items()]
        await self.call("Emulation.setEmulatedMedia", features=media)

    async def key(self, name: str) -> None:
        # Only with its text does Enter press a button.
        more = {"text": "\r", "windowsVirtualKeyCode": 13} if name == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, **more)

    async def choose(self, selector: str, file: Path) -> None:
        """A file, in an input for files."""
        root = (await self.call("DOM.getDocument"))["root"]["nodeId"]
        node = (await self.call("DOM.querySelector", nodeId=root, selector=selector))["nodeId"]
        await self.call("DOM.setFileInputFiles", files=[str(file)], nodeId=node)

    async def frame_text(self, words: str) -> str:
        """The text of a frame within the page, once it has some words: whatever its origin."""
        script = "document.body && document.body.innerText"
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                for context in tuple(self._contexts):
                    asked = {"expression": script, "contextId": context, "returnByValue": True}
                    answer = await self.call("Runtime.evaluate", **asked)
                    text = str(answer.get("result", {}).get("value"))
                    if words in text:
                        return text
                await asyncio.sleep(0.1)

    async def picture(self) -> bytes:
        """A PNG of what is to be seen."""
        shot = await self.call("Page.captureScreenshot")
        return base64.b64decode(shot["data"])

    async def _read(self) -> None:
        async for message in self._socket:
            self._take(json.loads(message.data))

    def _take(self, event: Any) -> None:
        if "id" in event:
            answer = self._answers.pop(event["id"])
            if not answer.done():
                answer.set_result(event.get("result", {}))
            return
        params = event.get("params", {})
        match event["method"]:
            case "Network.requestWillBeSent":
                self.requested.append(params["request"]["url"])
            case "Runtime.executionContextCreated":
                self._contexts.append(params["context"]["id"])
            case "Runtime.exceptionThrown":
                self.said.append(str(params["exceptionDetails"])[:500])
            case "Log.entryAdded":
                self.said.append(params["entry"]["text"])
            case "Page.javascriptDialogOpening":
                self.dialogs += 1
            case _:
                pass


class _Browser:
    """One for all tests of this process: its start takes longer than most tests."""

    def __init__(self) -> None:
        assert CHROMIUM is not None
        self._owner = os.getpid()
        self._profile = Path(tempfile.mkdtemp())
        atexit.register(self._close)
        self._process = subprocess.Popen(
            (CHROMIUM, *_OPTIONS, f"--user-data-dir={self._profile}"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    async def address(self) -> tuple[str, str]:
        """Where it listens, and the path of its own socket."""
        file = self._profile / "DevToolsActivePort"
        async with asyncio.timeout(_PATIENCE_S):
            while self.is_running:
                if file.exists() and (found := _LISTENING.fullmatch(file.read_text())):
                    return f"ws://127.0.0.1:{found[1]}", found[2]
                await asyncio.sleep(0.02)
        raise AssertionError("chromium ended")

    def _close(self) -> None:
        if os.getpid() != self._owner:
            return  # a fork of the process
        self._process.kill()
        self._process.wait()
        until = time.monotonic() + 10
        while self._profile.exists() and time.monotonic() < until:
            # Its own children end a moment later, and may still write.
            shutil.rmtree(self._profile, ignore_errors=True)
            time.sleep(0.02)


_shared_browser = functools.cache(_Browser)


@asynccontextmanager
async def a_page(url: str) -> AsyncIterator[BrowserPage]:
    """A tab at this address, with storage, cookies and settings that no other tab has."""
    if not _shared_browser().is_running:
        _shared_browser.cache_clear()
    origin, path = await _shared_browser().address()
    async with aiohttp.ClientSession(origin) as session, _connected(session, path) as browser:
        own = await browser.call("Target.createBrowserContext", disposeOnDetach=True)
        target = await browser.call("Target.createTarget", url="about:blank", **own)
        async with _connected(session, f"/devtools/page/{target['targetId']}") as page:
            await page.open(url)
            yield page
        await browser.call("Target.disposeBrowserContext", **own)


@asynccontextmanager
async def _connected(session: aiohttp.ClientSession, path: str) -> AsyncIterator[BrowserPage]:
    async with session.ws_connect(path, max_msg_size=64 << 20) as socket:
        page = BrowserPage(socket)
        try:
            yield page
        finally:
            await page.close()

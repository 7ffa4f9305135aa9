"""The proxy or a replay in this process, in a thread with an event loop of its own.

So tests of any kind can use it: plain functions, asyncio, trio, a browser.
"""

import asyncio
import shutil
import tempfile
import threading
import time
from collections.abc import Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from lifecycle_proxy.app import serve
from lifecycle_proxy.app.recording_mode import redaction_of
from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.exchange.model import SideName
from lifecycle_proxy.recording.cassette import RecordedExchange, load
from lifecycle_proxy.recording.cassette_file import CassetteError
from lifecycle_proxy.replay import server as replay
from lifecycle_proxy.replay.matching import Rules, cleaned_by
from lifecycle_proxy.replay.schedule import playable
from lifecycle_proxy.testing.network_block import EXEMPT

T = TypeVar("T")

_LOCAL: Final = "127.0.0.1:0"
_PATIENCE_S: Final = 30.0
_WRITTEN_S: Final = 0.1  # the recorder writes twenty times a second
_UNDER_WAY_S: Final = 2.0
_POLL_S: Final = 0.02
_UNREACHABLE: Final = "upstream_unreachable"


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{EXEMPT}-loop", daemon=True)
        self._thread.start()
        self._ready.wait(_PATIENCE_S)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for its result.

        Raises:
            TimeoutError: it took longer than 30 seconds.
        """
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE_S)

    def close(self) -> None:
        """Cancel what still runs there, and end the thread."""
        self._loop.call_soon_threadsafe(self._asked.set)
        self._thread.join(_PATIENCE_S)

    def _run(self) -> None:
        # Not the loop of the policy that the tests may have set.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self._loop, self._asked = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix=EXEMPT))
        self._ready.set()
        await self._asked.wait()


@contextmanager
def background_loop() -> Iterator[Loop]:
    """An event loop in a thread, closed at the end of the block."""
    loop = Loop()
    try:
        yield loop
    finally:
        loop.close()


@contextmanager
def replaying(
    loop: Loop, exchanges: Iterable[RecordedExchange], options: replay.Options
) -> Iterator[str]:
    """Serve recordings; yields the URL.

    Args:
        loop: where the server runs.
        exchanges: the recordings.
        options: of the replay.
    """
    runner, url = loop.run(replay.start_replay(replay.ReplayApp(exchanges, options), _LOCAL))
    try:
        yield url
    finally:
        loop.run(runner.stop())


@contextmanager
def proxying(loop: Loop, settings: Settings, drain_s: float) -> Iterator[str]:
    """Run the proxy; yields its URL.

    Args:
        loop: where it runs.
        settings: all but ``server.listen``.
        drain_s: how long streams that are open at the end may still take, in seconds.
    """
    own = msgspec.structs.replace(settings.server, listen=_LOCAL)
    runner, url = loop.run(serve.start(msgspec.structs.replace(settings, server=own)))
    try:
        yield url
    finally:
        loop.run(serve.stop(runner, drain_s))


@contextmanager
def played(
    loop: Loop, settings: Settings, exchanges: list[RecordedExchange], options: replay.Options
) -> Iterator[str]:
    """Replay a cassette; yields the URL.

    Args:
        loop: where the servers run.
        settings: of the proxy.
        exchanges: the recordings.
        options: by ``side`` they replace the proxy (``client``) or its upstream.
    """
    with replaying(loop, exchanges, options) as url:
        if options.side == "client":
            yield url
            return
        base = urlsplit(settings.upstream_base).path
        upstream = msgspec.structs.replace(settings.upstream, url=url + base)
        own = msgspec.structs.replace(settings, upstream=upstream, upstreams=[], models={})
        with proxying(loop, own, 0.1) as proxy_url:
            yield proxy_url


def rules(settings: Settings, **more: Any) -> Rules:
    """The rules that match requests with what a proxy with these settings recorded.

    Args:
        settings: of that proxy.
        more: further fields of ``Rules``.
    """
    return Rules(clean=cleaned_by(redaction_of(settings)), **{"strict": True, **more})


class RecordingSession:
    """One recording. It is made in a temporary folder and replaces the cassette if it is good.

    Args:
        cassette: the file to replace.
        adds: keep the exchanges that it has, and add to them.
    """

    def __init__(self, cassette: Path, *, adds: bool) -> None:
        self.cassette = cassette
        self._folder = tempfile.TemporaryDirectory(prefix="lifecycle-proxy-")
        self.path = Path(self._folder.name) / cassette.name
        self._before = set[str]()
        if adds and cassette.exists():
            shutil.copyfile(cassette, self.path)
            self._before = {exchange.id for exchange in load(cassette)}

    def recording(self, settings: Settings, mode: str) -> Settings:
        """The settings of a proxy that makes this recording.

        Args:
            settings: everything else.
            mode: of ``recording.mode``.
        """
        own = msgspec.structs.replace(settings.recording, mode=mode, path=str(self.path))
        return msgspec.structs.replace(settings, recording=own)

    def exchanges(self) -> list[RecordedExchange]:
        """The exchanges so far, once they are written."""
        time.sleep(_WRITTEN_S)
        limit = time.monotonic() + _UNDER_WAY_S
        while True:
            found = self._found()
            if all(one.is_complete for one in found) or time.monotonic() > limit:
                return found
            time.sleep(_POLL_S)

    def is_unreachable(self, side: SideName) -> bool:
        """Whether a new exchange cannot be replayed because the upstream was unreachable."""
        time.sleep(_WRITTEN_S)
        new = (one for one in self._found() if one.id not in self._before)
        return bool(playable((one for one in new if one.error == _UNREACHABLE), side)[1])

    def close(self, side: SideName, *, passed: bool) -> bool:
        """Keep the new exchanges if the test has passed, or if all of them can be replayed.

        Otherwise a run that was interrupted would leave half a cassette, and later runs replay it.

        Args:
            side: which later runs will replay.
            passed: whether the test has passed.

        Returns:
            Whether anything was kept.
        """
        new = [one for one in self._found() if one.id not in self._before]
        is_kept = bool(new) and (passed or not playable(new, side)[1])
        if is_kept:
            self.cassette.parent.mkdir(parents=True, exist_ok=True)
            part = self.cassette.with_name(f".{self.cassette.name}.part")
            shutil.copy(self.path, part)  # with its mode. No rename: it may be on another disk
            part.replace(self.cassette)
        self._folder.cleanup()
        return is_kept

    def _found(self) -> list[RecordedExchange]:
        try:
            return load(self.path)
        except CassetteError:
            return []  # no request yet

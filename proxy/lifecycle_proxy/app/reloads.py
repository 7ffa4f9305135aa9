"""SIGHUP: read the settings once more, and use them for new requests."""

import asyncio
import logging
from collections.abc import Callable

from lifecycle_proxy.app.factory import ProxyApp
from lifecycle_proxy.config.model import ConfigError, Settings
from lifecycle_proxy.config.reloading import reloaded

log = logging.getLogger("proxy.app")


class Reloads:
    """Reloads the settings of one process, one time after another.

    Args:
        app: whose settings they are.
        read: reads the settings, in a thread; None where they cannot be read again.
    """

    def __init__(self, app: ProxyApp, read: Callable[[], Settings] | None) -> None:
        self._app = app
        self._read = read
        self._is_asked = False
        self._task: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """A signal has come. Another one while this works is not lost, and many are as one."""
        self._is_asked = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Reload no more."""
        self._read = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        while self._is_asked:
            self._is_asked = False
            try:
                await self._reload()
            except Exception:  # a bug; the proxy goes on
                log.exception("SIGHUP: the settings stay as they are")

    async def _reload(self) -> None:
        """Whatever is wrong with the new settings: the old ones stay in force."""
        if self._read is None:
            log.warning("SIGHUP: these settings cannot be read again; they stay")
            return
        problems: list[str] = []
        try:
            new = await asyncio.to_thread(self._read)
            settings, fixed = reloaded(self._app.settings, new)
            await self._app.reload(settings)
        except ConfigError as error:
            problems += map(str, error.problems)
        except OSError as error:
            problems.append(str(error))
        for text in problems:
            log.error("SIGHUP: the settings stay as they are: %s", text)
        if not problems:
            log.info("SIGHUP: new requests get the new settings")
            for key in fixed:
                log.warning("SIGHUP: %s has changed, which needs a restart", key)

"""How long others wait while a task runs: what three scripts of ../shared/cases measure with.

It is not among the shared files. ``.ci/run`` puts it on PYTHONPATH; one beside the scripts would
come first.
"""

import asyncio
import time
from contextlib import suppress

_PAUSE_S = 0.02
_PATIENCE_S = 30.0


async def healthy_worst(port: int, task: "asyncio.Task[object]") -> float:
    """The longest time that ``/-/healthy`` took, asked again and again until the task is done.

    Args:
        port: of the proxy, on 127.0.0.1.
        task: meanwhile.

    Returns:
        Seconds.
    """
    worst = 0.0
    while not task.done():
        start = time.perf_counter()
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                await reader.read()
                writer.close()
        worst = max(worst, time.perf_counter() - start)
        await asyncio.sleep(_PAUSE_S)
    return worst

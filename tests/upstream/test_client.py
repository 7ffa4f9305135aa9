"""The client for the backend, without a proxy around it."""

import pytest
from lifecycle_proxy.config import model as config
from lifecycle_proxy.upstream import client

from tests.fakes import Request, Upstream, Wire


async def probed(upstream: Upstream) -> str:
    """What a probe says that waits for an answer for 0.1 s."""
    settings = config.load(environ={}, flags={"upstream.url": f"{upstream.origin}/v1"})
    own = client.HttpUpstream(settings, probe_s=0.1)
    await own.start()
    try:
        return await own.probe()
    finally:
        await own.close()


@pytest.mark.usefixtures("quiet")
async def test_an_upstream_that_is_slow_to_answer_is_up(upstream: Upstream) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.left()

    upstream.script = script
    assert await probed(upstream) == ""
    assert upstream.request.target == "/v1/models"

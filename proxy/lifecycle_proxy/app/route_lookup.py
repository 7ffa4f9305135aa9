"""Where a request for a model would go: ``lifecycle-proxy routes``."""

from lifecycle_proxy.app.route_report import described
from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.upstream.choice import RequestFacts
from lifecycle_proxy.upstream.pool import UpstreamPool


async def lead(settings: Settings, model: str) -> tuple[str, bool]:
    """Where a request for a model goes, and whether it goes anywhere.

    Args:
        settings: everything.
        model: as a client names it.
    """
    pool = UpstreamPool(settings)
    await pool.start()
    try:
        choice = await pool.choose(RequestFacts(model))
    except ProxyError as error:
        return error.message, False
    finally:
        await pool.close()
    return f"{model} -> {described(choice.groups)} ({choice.why})", True

"""See it work with no backend: a scripted upstream, the proxy, one conversation."""


async def run(listen: str, *, once: bool) -> int:
    """Placeholder replaced below."""
    raise NotImplementedError

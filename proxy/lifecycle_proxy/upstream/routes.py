"""Where a request goes: which URL of the upstream answers a path of the client's."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UpstreamUrls:
    """The URLs of one upstream.

    Attributes:
        base: what stands for the client's ``/v1``, without a slash at the end.
        origin: scheme, host and port, for all other paths.
    """

    base: str
    origin: str

    def target(self, path: str) -> str:
        """Raw path and query for a request: ``/v1/X`` is base + ``/X``, any other path itself.

        Args:
            path: raw path and query as they came; nothing is decoded, resolved or quoted.
        """
        path = path.partition("#")[0]  # a fragment is not for servers
        if path.startswith(("/v1/", "/v1?")) or path == "/v1":
            return self.base[len(self.origin) :] + path[3:]
        return path

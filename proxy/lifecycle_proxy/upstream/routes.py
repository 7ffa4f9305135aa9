"""Where a request goes: which URL of the upstream answers a path of the client's."""

from dataclasses import dataclass

from yarl import URL


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
        """Raw path and query of the URL for a request: what the upstream is sent."""
        return self.url(path).raw_path_qs

    def url(self, path: str) -> URL:
        """The URL for a request: ``/v1/X`` to base + ``/X``, any other path to the origin.

        Args:
            path: raw path and query as they came; nothing is decoded, resolved or quoted.
        """
        if path.startswith(("/v1/", "/v1?")) or path == "/v1":
            return URL(self.base + path[3:], encoded=True)
        return URL(self.origin + path, encoded=True)

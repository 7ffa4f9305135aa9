"""What can go wrong before the headers of a response have come. ``upstream.errors`` says it in the
proxy's terms."""


class TransportError(Exception):
    """There is no response."""


class ConnectFailedError(TransportError):
    """No connection could be made: nothing has been sent.

    Args:
        reason: what the system, or the proxy in between, said.
        cause: the exception behind it.
        is_tls: it was the TLS handshake that failed.
    """

    def __init__(
        self, reason: str, cause: BaseException | None = None, *, is_tls: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.cause = cause
        self.is_tls = is_tls


class ConnectTimedOutError(TransportError):
    """No connection could be made in time."""


class ResponseTimedOutError(TransportError):
    """The headers of the response did not come in time."""


class InvalidResponseError(TransportError):
    """The response must not be sent on.

    Args:
        reason: why, without a byte of it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class DisconnectedError(TransportError):
    """The connection ended before the response's headers.

    Args:
        cause: it was reset; None if it was closed.
        in_headers: a part of them had come.
        is_stale: it was a used connection, and it ended so early that the request cannot have been
            worked on.
    """

    def __init__(self, cause: BaseException | None, *, in_headers: bool, is_stale: bool) -> None:
        super().__init__("the connection ended")
        self.cause = cause
        self.in_headers = in_headers
        self.is_stale = is_stale

"""OTLP over HTTP: sends what is encoded, by the variables ``OTEL_EXPORTER_OTLP_…``. For a thread.

https://opentelemetry.io/docs/specs/otlp/#otlphttp says what may be tried again, and
https://opentelemetry.io/docs/specs/otel/protocol/exporter/ what the variables mean. The exporter of
OpenTelemetry's SDK takes nothing but the SDK's own objects (``spans`` has the reason against them).
"""

import gzip
import ssl
import threading
import time
from collections.abc import Mapping
from email.message import Message
from http.client import HTTPException
from typing import IO, Final, Literal
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from opentelemetry.util.re import parse_env_headers

from lifecycle_proxy import __version__

Signal = Literal["traces", "metrics"]
Sent = Literal["sent", "lost", "not_taken"]

_DEFAULT_URL: Final = "http://localhost:4318"
_DEFAULT_TIMEOUT_S: Final = 10.0
_BACKOFF_S: Final = 1.0
_AGAIN: Final = (429, 502, 503, 504)
_NOT_TAKEN: Final = (404, 405, 501)  # a receiver of other signals only
_ANSWER_BYTES: Final = 1 << 16


class OtlpSender:
    """Sends one signal to one receiver.

    Args:
        signal: which.
        environ: the environment.
        closing: set when there is no time for a second try.

    Raises:
        ValueError: a variable has a value that cannot work.
    """

    def __init__(
        self, signal: Signal, environ: Mapping[str, str], closing: threading.Event
    ) -> None:
        self._environ, self._signal, self._closing = environ, signal.upper(), closing
        self._url = environ.get(f"OTEL_EXPORTER_OTLP_{self._signal}_ENDPOINT", "").strip()
        if not self._url:
            base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip() or _DEFAULT_URL
            self._url = f"{base.rstrip('/')}/v1/{signal}"
        if not _is_http(self._url):
            raise ValueError(f"{self._url!r} is not a URL of http or https")
        self._timeout_s = self._seconds()
        self._is_compressed = self._of("COMPRESSION").lower() == "gzip"
        self._headers = {
            "User-Agent": f"lifecycle-proxy/{__version__}",
            **parse_env_headers(self._of("HEADERS"), liberal=True),
            "Content-Type": "application/x-protobuf",
        }
        if self._is_compressed:
            self._headers["Content-Encoding"] = "gzip"
        self._opener = build_opener(_NoRedirects, HTTPSHandler(context=self._tls()))

    def send(self, data: bytes) -> Sent:
        """Send a request; try again for as long as the receiver asks for that, within the limit."""
        body = gzip.compress(data, 1) if self._is_compressed else data
        deadline, pause_s = time.monotonic() + self._timeout_s, _BACKOFF_S
        while True:
            result = self._once(body, max(deadline - time.monotonic(), 0.1))
            if result is not None:
                return result
            if time.monotonic() + pause_s > deadline or self._closing.wait(pause_s):
                return "lost"
            pause_s *= 2

    def _once(self, body: bytes, limit_s: float) -> Sent | None:
        """What became of it; None if it may be sent again."""
        request = Request(self._url, body, self._headers, method="POST")  # noqa: S310  see above
        try:
            with self._opener.open(request, timeout=limit_s) as answer:
                answer.read(_ANSWER_BYTES)
            return "sent"
        except HTTPError as refused:
            refused.close()
            if refused.code in _NOT_TAKEN:
                return "not_taken"
            return None if refused.code in _AGAIN else "lost"
        except (OSError, HTTPException):
            return None
        except ValueError:  # a header that cannot be sent
            return "lost"

    def _of(self, name: str) -> str:
        """A variable, of this signal or of all."""
        special = self._environ.get(f"OTEL_EXPORTER_OTLP_{self._signal}_{name}", "").strip()
        return special or self._environ.get(f"OTEL_EXPORTER_OTLP_{name}", "").strip()

    def _seconds(self) -> float:
        value = self._of("TIMEOUT")
        try:
            seconds = float(value) if value else _DEFAULT_TIMEOUT_S
        except ValueError:
            raise ValueError(f"OTEL_EXPORTER_OTLP_TIMEOUT: {value!r} is not a number") from None
        # Milliseconds by the specification, but seconds in OpenTelemetry's SDK for Python.
        return seconds / 1000 if seconds >= 1000 else max(seconds, 0.1)

    def _tls(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self._of("CERTIFICATE") or None)
            if certificate := self._of("CLIENT_CERTIFICATE"):
                context.load_cert_chain(certificate, self._of("CLIENT_KEY") or None)
        except OSError as failure:
            raise ValueError(f"a certificate of OTEL_EXPORTER_OTLP_…: {failure}") from None
        return context


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(  # noqa: PLR0917  the signature is the library's
        self,
        req: Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> None:
        """None: what is sent has headers that are for one receiver."""

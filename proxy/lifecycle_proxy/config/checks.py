"""What types cannot say: values that cannot be used, and values that do not do what they seem to.

``problems`` are refused. ``warnings`` are said at the start and by ``check-config``.
"""

import ipaddress
import re
import ssl
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from lifecycle_proxy.config import origins, page, patterns, shared_store, traces, upstreams
from lifecycle_proxy.config.certificates import unusable
from lifecycle_proxy.config.machine import CASSETTES, is_open
from lifecycle_proxy.config.plain import quoted
from lifecycle_proxy.config.streams import token_problems

if TYPE_CHECKING:
    from lifecycle_proxy.config.model import Recording, Server, Settings
    from lifecycle_proxy.config.streams import StreamSettings

Found = Iterator[tuple[str, str]]  # keys and texts

_VARIABLE: Final = re.compile(r"(?i)(?:\$\{?|env:\s+|\$env:)([a-z_][a-z0-9_]*)\}?")
_MAX_PORT: Final = 65535


class Warned(NamedTuple):
    """A setting that is accepted, and should not be overlooked.

    Attributes:
        is_serious: others may use the proxy at its owner's cost.
    """

    key: str
    text: str
    is_serious: bool = False


def problems(settings: "Settings") -> Found:
    """What makes a start with these settings impossible, or useless."""
    yield from _listen(settings.server.listen)
    yield from upstreams.problems(settings)
    yield from _keys(settings)
    yield from _tls(settings)
    yield from _recording(settings.recording, settings.server.workers)
    yield from _streams(settings.streams)
    yield from origins.origins(settings.server.cors_origins)
    yield from origins.hosts(settings.server.hosts)
    yield from traces.problems(settings.traces)
    yield from origins.public_url(settings.server.public_url)
    yield from page.problems(settings)
    yield from patterns.dialect(settings.lifecycle.dialect, "lifecycle.dialect")
    for number, rule in enumerate(settings.lifecycle.clients):
        yield from patterns.rule(rule, f"lifecycle.clients[{number}]")


def _streams(own: "StreamSettings") -> Found:
    yield from shared_store.problems(own.store)
    yield from shared_store.prefix_problems(own.prefix)
    yield from token_problems(own.token_key)
    if not own.max_streams:
        for key in ("resume_s", "text", "arguments", "compat_paths"):
            if getattr(own, key):
                cure = f"set max_streams (10000 is the default), or leave {key} out"
                yield f"streams.{key}", f"needs streams that are kept: max_streams is 0; {cure}"


def warnings(settings: "Settings") -> Iterator[Warned]:
    """What is accepted, and worth a second look."""
    server, upstream = settings.server, settings.upstream
    is_tls = upstream.url.lower().startswith("https:")
    if is_open(settings) and not server.api_keys:
        yield _open(settings)
    if not upstream.verify_tls and is_tls:
        text = "is false: anyone between here and the upstream can read every key and prompt"
        yield Warned("upstream.verify_tls", text)
    for key, value in (("ca_file", upstream.ca_file), ("server_name", upstream.server_name)):
        if value and not is_tls:
            yield Warned(f"upstream.{key}", "has no effect: upstream.url is not https")
    if server.heartbeat_before_first_byte and not server.heartbeat_s:
        text = "has no effect: server.heartbeat_s is 0"
        yield Warned("server.heartbeat_before_first_byte", text)
    if upstream.api_key_header and not upstream.api_key:
        yield Warned("upstream.api_key_header", "has no effect: upstream.api_key is not set")
    if "*" in server.cors_origins and len(server.cors_origins) > 1:
        yield Warned("server.cors_origins", 'has "*", so the others have no effect')
    for key, text in upstreams.doubtful(settings):
        yield Warned(key, text)
    for key, text in patterns.doubtful(settings.lifecycle.clients):
        yield Warned(key, text)


def _open(settings: "Settings") -> Warned:
    key = "upstream.api_key" if settings.upstream.api_key else "upstreams' api_key"
    where, cure = settings.server.listen, "set server.api_keys, or listen on 127.0.0.1"
    if settings.upstream.api_key or any(one.api_key for one in settings.upstreams):
        text = f"anyone who reaches {where} can use your {key}, at your cost; {cure}"
        return Warned("server.listen", text, is_serious=True)
    text = f"other machines can reach {where} and use the upstream without a key; {cure}"
    return Warned("server.listen", text)


# --- addresses ----------------------------------------------------------------------------------


def _listen(listen: str) -> Found:
    host, colon, port = listen.rpartition(":")
    is_number = bool(re.fullmatch("[0-9]{1,9}", port))
    if listen.startswith("unix:/"):
        return
    if colon and is_number and int(port) <= _MAX_PORT and _is_host(host):
        return
    cure = ""
    if is_number and not host:
        cure = f"; write 127.0.0.1:{port}, or 0.0.0.0:{port} for other machines too"
    elif is_number and int(port) > _MAX_PORT:
        cure = f"; the highest port is {_MAX_PORT}"
    elif "://" in listen:
        cure = f"; leave out {listen.partition('://')[0]}://"
    what = "HOST:PORT, such as 127.0.0.1:8787 (port 0 picks a free one), nor unix:/PATH"
    yield "server.listen", f"{quoted(listen)} is not {what}{cure}"


def _is_host(host: str) -> bool:
    name = host[1:-1] if host[:1] == "[" and host[-1:] == "]" else host
    if ":" not in name:
        return bool(name) and not re.search(r"[\s/\[\]@?#]", name)
    with suppress(ValueError):
        return bool(ipaddress.IPv6Address(name))
    return False


# --- keys, certificates, recordings -------------------------------------------------------------


def _keys(settings: "Settings") -> Found:
    given = [("upstream.api_key", settings.upstream.api_key)]
    given += [
        (f"upstreams[{at}].api_key", one.api_key) for at, one in enumerate(settings.upstreams)
    ]
    given += [("server.api_keys", key) for key in settings.server.api_keys]
    for key, text in given:
        if found := _VARIABLE.fullmatch(text):
            yield key, f'would be used as it stands; to read a variable, write "env:{found[1]}"'
    if "" in settings.server.api_keys:
        yield "server.api_keys", "a key must not be empty"
    if header := settings.upstream.api_key_header:
        yield from patterns.header_name(header, "upstream.api_key_header")


def _tls(settings: "Settings") -> Found:
    """Whether the files can be used. They are read again where they are."""
    server, upstream = settings.server, settings.upstream
    if server.tls_cert:
        try:
            server_context(server)
        except (OSError, ssl.SSLError) as error:
            yield "server.tls_cert", unusable(error, server.tls_cert, server.tls_key)
    elif server.tls_key:
        yield "server.tls_key", "has no certificate; set server.tls_cert, too"
    files = [("upstream.ca_file", upstream.ca_file)]
    files += [
        (f"upstreams[{at}].ca_file", one.ca_file) for at, one in enumerate(settings.upstreams)
    ]
    for key, file in files:
        if file:
            try:
                ssl.create_default_context(cafile=file)
            except (OSError, ssl.SSLError) as error:
                yield key, unusable(error, file)


def server_context(server: "Server") -> ssl.SSLContext | None:
    """TLS towards clients; None where no certificate is configured.

    Raises:
        OSError: the certificate or the key cannot be read, or do not belong together.
    """
    if not server.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server.tls_cert, server.tls_key or None)
    return context


def _recording(own: "Recording", workers: int) -> Found:
    if own.mode != "off" and own.path.endswith(CASSETTES) and workers > 1:
        cure = "name a folder, or set workers to 1"
        yield "recording.path", f"{quoted(own.path)} is one file, for {workers} workers; {cure}"
    for number, pattern in enumerate(own.redact_patterns):
        try:
            re.compile(pattern.encode())
        except (re.error, OverflowError, RecursionError) as error:
            key = f"recording.redact_patterns[{number}]"
            yield key, f"not a valid regular expression: {error}"
    yield from patterns.header_names(own.redact_headers, "recording.redact_headers")

"""``watch``: a stream's events on a terminal, live."""

import argparse
import os
import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from lifecycle_proxy.cli import usage
from lifecycle_proxy.exchange.routes import STREAMS_PREFIX

_PROXY: Final = "http://127.0.0.1:8787"
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KEY_VARIABLE: Final = "OPENAI_API_KEY"


def add(commands: usage.Commands, run: usage.Run) -> None:
    """Add the command.

    Args:
        commands: of argparse's ``add_subparsers``.
        run: runs a coroutine to its end.
    """
    parser = usage.add(
        commands,
        "watch",
        brief="show a stream's events, live",
        description="Print the events of a stream as they come: tools, text where it is kept, the "
        "end. STREAM is the value of X-Stream-Url or X-Stream-Id of the response, or the id that "
        "the client chooses: then watch may be started first.\n"
        "A connection that breaks is made anew, and nothing is missed. Exit code: 0 if the stream "
        "was completed, 1 if it was not or cannot be read, 2 for wrong usage, an unknown stream or "
        "a key that is not its own.",
        examples="st_1f0c4e5a9b3d7c2e8a6f4b1d\n"
        "my-stream-1 --proxy http://127.0.0.1:9000 --key env:PROXY_KEY\n"
        "https://proxy.example/-/streams/my-stream-1/events",
    )
    parser.add_argument("stream", metavar="STREAM", help="a URL, a path of the proxy, or an id")
    parser.add_argument(
        "--proxy",
        default=_PROXY,
        metavar="URL",
        help="base URL of the proxy (default: %(default)s)",
    )
    parser.add_argument(
        "--key",
        metavar="KEY",
        help="the key of the chat's request; env:NAME reads a variable, '' sends none "
        f"(default: {_KEY_VARIABLE}, if it is set)",
    )
    parser.add_argument(
        "--after", type=int, default=0, metavar="N", help="only what came behind event N"
    )
    parser.set_defaults(run=lambda arguments: _watch(arguments, parser.error, run))


def _watch(arguments: argparse.Namespace, fail: Callable[[str], Any], run: usage.Run) -> int:
    url = _url(arguments.stream, arguments.proxy)
    if url is None:
        fail(f"{arguments.stream!r} is neither an id nor an http(s) URL of a stream")
    key = arguments.key if arguments.key is not None else os.environ.get(_KEY_VARIABLE, "")
    if key.startswith("env:"):
        name = key.removeprefix("env:")
        key = os.environ.get(name, "")
        if not key:
            fail(f"the environment variable {name} is not set, or is empty")
    from lifecycle_proxy.cli.watch_client import watch  # imports aiohttp: 0.2 s

    return run(watch(str(url), key, arguments.after))


def _url(stream: str, proxy: str) -> str | None:
    """The URL of a stream's events."""
    if _ID.fullmatch(stream):
        stream = f"{STREAMS_PREFIX}{stream}/events"
    if stream.startswith("/"):
        stream = proxy.rstrip("/").removesuffix("/v1") + stream
    parts = urlsplit(stream)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return None
    is_short = re.fullmatch(rf"{STREAMS_PREFIX}[\w-]+/?", parts.path) is not None
    path = f"{parts.path.rstrip('/')}/events" if is_short else parts.path
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))

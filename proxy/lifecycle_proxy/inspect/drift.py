"""Drift: whether a live upstream still responds in the form in which it was recorded.

Each recorded chat and Responses request is sent again, and the signatures of the responses are
compared (see ``signature`` and ``compare``). Models write another text each time; the form of the
response should not change.
"""

import asyncio
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TextIO

from multidict import CIMultiDict

from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.core.apis import CHAT, RESPONSES
from lifecycle_proxy.core.printable import printable
from lifecycle_proxy.exchange.content_coding import CODINGS, Decompressor, coding
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.headers import for_upstream
from lifecycle_proxy.exchange.ports import UpstreamRequest, UpstreamResponse
from lifecycle_proxy.inspect import timeline
from lifecycle_proxy.inspect.compare import compare
from lifecycle_proxy.inspect.signature import Comparison, Reply, Verdict
from lifecycle_proxy.recording.cassette import RecordedExchange, Request
from lifecycle_proxy.recording.redactor import Redaction
from lifecycle_proxy.recording.secret_detection import find_in_header
from lifecycle_proxy.upstream.client import HttpUpstream
from lifecycle_proxy.upstream.collect import collect

EXIT: Final = {Verdict.IDENTICAL: 0, Verdict.BENIGN: 3, Verdict.BREAKING: 1}
EXIT_NOTHING: Final = 1
EXIT_UNREACHABLE: Final = 4

_ROUTES: Final = (CHAT.name, RESPONSES.name)
_BEFORE_PATH: Final = re.compile(r"\A(?:https?://[^/]*)?(?:/-/as/[^/]*)?", re.IGNORECASE)
_PLACEHOLDER: Final = "[redacted:"
_MAX_BYTES: Final = 64 << 20
_COLOURS: Final = {Verdict.IDENTICAL: "32", Verdict.BENIGN: "33", Verdict.BREAKING: "31"}


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one exchange.

    Attributes:
        id: of the exchange.
        asked: method and path.
        comparison: with the response now.
    """

    id: str
    asked: str
    comparison: Comparison


@dataclass(frozen=True, slots=True)
class Report:
    """The results of all exchanges.

    Attributes:
        results: in the order of the recording.
        skipped: ids of the exchanges that could not be sent again, and why.
        unreachable: why the upstream could not be reached; "" if it could. Then there is no
            verdict, and the exchanges after that were not sent.
    """

    results: tuple[Result, ...]
    skipped: tuple[tuple[str, str], ...]
    unreachable: str = ""

    @property
    def verdict(self) -> Verdict | None:
        """The worst one; None if nothing was sent, or not all could be."""
        if self.unreachable:
            return None
        return max((result.comparison.verdict for result in self.results), default=None)

    @property
    def exit_code(self) -> int:
        """0 identical, 3 benign, 1 breaking or nothing sent, 4 unreachable. 2 is wrong usage."""
        if self.unreachable:
            return EXIT_UNREACHABLE
        return EXIT_NOTHING if self.verdict is None else EXIT[self.verdict]


class _Unreachable(Exception):  # noqa: N818  no error of a program
    """The upstream takes no connection."""


async def drift(
    exchanges: Iterable[RecordedExchange],
    settings: Settings,
    *,
    timeout_s: float = 600.0,
    progress: TextIO | None = None,
) -> Report:
    """Send all requests again, one at a time, and compare.

    Args:
        exchanges: of a recording.
        settings: only ``[upstream]`` is used.
        timeout_s: for each whole response, in seconds.
        progress: gets the number of the current request, if it is a terminal.
    """
    upstream, results, skipped = HttpUpstream(settings), list[Result](), list[tuple[str, str]]()
    asked, unreachable = list(exchanges), ""
    await upstream.start()
    try:
        for number, exchange in enumerate(asked, 1):
            if reason := _unaskable(exchange):
                skipped.append((exchange.id, reason))
                continue
            request = exchange.forwarded or exchange.request
            what = f"{request.method} {_path(exchange).partition('?')[0]}"
            _tell(progress, f"{number} of {len(asked)}: {what}")
            reply = await _ask(upstream, exchange, settings.upstream.api_key, timeout_s)
            results.append(Result(exchange.id, what, compare(_recorded(exchange), reply)))
    except _Unreachable as failure:
        unreachable = str(failure)
    finally:
        _tell(progress, "")
        await upstream.close()
    return Report(tuple(results), tuple(skipped), unreachable)


def render(report: Report, *, colour: bool = False) -> Iterator[str]:
    """The lines of the report, without line ends. Characters that do not print are escaped.

    Args:
        report: to show.
        colour: write escape sequences for colours.
    """
    for result in report.results:
        verdict = result.comparison.verdict
        name = f"{verdict.name.lower():<9}"
        shown = f"\x1b[{_COLOURS[verdict]}m{name}\x1b[0m" if colour else name
        yield f"{shown}  {printable(result.id)}  {printable(result.asked)}"
        for mark, lines in (("!", result.comparison.breaking), ("~", result.comparison.benign)):
            yield from (f"  {mark} {printable(line)}" for line in lines)
    for exchange_id, reason in report.skipped:
        yield f"not asked  {printable(exchange_id)}  {printable(reason)}"
    yield _sum(report)


def _sum(report: Report) -> str:
    verdicts = [result.comparison.verdict for result in report.results]
    counts = [f"{verdicts.count(v)} {v.name.lower()}" for v in Verdict if v in verdicts]
    if report.skipped:
        counts.append(f"{len(report.skipped)} not asked")
    if report.unreachable:
        return f"unreachable: {printable(report.unreachable)}"
    verdict = "nothing to ask again" if report.verdict is None else report.verdict.name.lower()
    return f"{verdict} ({', '.join(counts) or 'no exchanges'})"


def _tell(progress: TextIO | None, text: str) -> None:
    if progress is not None and progress.isatty():
        progress.write(f"\r\x1b[K{printable(text)[:78]}")
        progress.flush()


# --- what was recorded --------------------------------------------------------------------------


def _unaskable(exchange: RecordedExchange) -> str:
    """Why a request cannot be sent again, or its response not compared; "" if they can."""
    request, answer = exchange.forwarded or exchange.request, exchange.upstream
    if exchange.route not in _ROUTES or request.method != "POST":
        return "not a chat or Responses request"
    if request.body is None:
        return f"its body was not recorded: {request.omitted or 'no reason given'}"
    if _PLACEHOLDER in exchange.request.target:
        return "its URL contained a secret"
    if exchange.omitted:
        return f"its answer was not recorded: {exchange.omitted}"
    if not answer.status or not exchange.is_complete:
        return "there is no answer to compare with"
    if answer.end != "eof":
        return f"its answer broke off when it was recorded ({answer.end or 'never began'})"
    if answer.header("Content-Encoding").strip().lower() not in ("", "identity", *CODINGS):
        return f"its answer is compressed: {answer.header('Content-Encoding')}"
    return ""


def _recorded(exchange: RecordedExchange) -> Reply:
    answer = exchange.upstream
    body = b"".join(piece.data for piece in timeline.clear(answer))
    return Reply(answer.status, answer.header("Content-Type"), body)


def _path(exchange: RecordedExchange) -> str:
    """The client's path, without a profile. The upstream's may have another prefix today."""
    return _BEFORE_PATH.sub("", exchange.request.target, count=1)


def _headers(request: Request, key: str) -> CIMultiDict[str]:
    """The recorded headers without those of its connection and without redacted secrets."""
    kept = for_upstream(CIMultiDict(request.headers))
    hidden = Redaction().exchange(request.headers).headers(request.headers)
    for (name, value), (_, shown) in zip(request.headers, hidden, strict=True):
        if value != shown or _PLACEHOLDER in value or any(find_in_header(name, value)):
            kept.popall(name, None)
    kept["Accept-Encoding"] = "identity"
    if key:
        kept["Authorization"] = f"Bearer {key}"
    return kept


# --- the response now ---------------------------------------------------------------------------


async def _ask(
    upstream: HttpUpstream, exchange: RecordedExchange, key: str, timeout_s: float
) -> Reply:
    request, path = exchange.forwarded or exchange.request, _path(exchange)
    wanted = UpstreamRequest(request.method, path, _headers(request, key), request.body)
    try:
        async with asyncio.timeout(timeout_s):
            answer = await upstream.open(wanted, _not_counted)
            try:
                return await _read(answer)
            finally:
                answer.close()
    except TimeoutError:
        return Reply(0, "", b"", f"no whole answer within {timeout_s:g} s")
    except ProxyError as failure:
        # One that closes the connection on this request only is there, and has changed.
        if failure.code == "upstream_unreachable" and await upstream.probe():
            raise _Unreachable(failure.message) from None
        return Reply(0, "", b"", failure.message)
    except ValueError as problem:  # a line break in a header, and the like
        return Reply(0, "", b"", f"the request cannot be sent: {problem}")


async def _read(answer: UpstreamResponse) -> Reply:
    got = await collect(answer, lambda data: len(data) > _MAX_BYTES)
    body, broken = got.data, "" if got.failure is None else "the answer broke off"
    if coding(answer.headers):
        try:
            body = Decompressor().feed(body)
        except ProxyError:
            body, broken = b"", "the answer broke off"
    if len(got.data) > _MAX_BYTES:
        broken = f"the answer is larger than {_MAX_BYTES >> 20} MiB"
    content_type = answer.headers.get("Content-Type", "")
    return Reply(answer.status, content_type, body, broken)


def _not_counted() -> None:
    """A retry makes no difference to the comparison."""

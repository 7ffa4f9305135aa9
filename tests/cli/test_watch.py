"""``watch``: a stream's events on a terminal."""

import asyncio
import io

import pytest
from lifecycle_proxy.cli import main as cli
from lifecycle_proxy.cli import watch_client as command
from lifecycle_proxy.inspect.terminal import Paper
from lifecycle_proxy.inspect.watching import WatchLines

from tests.fakes import DONE, Request, Script, Upstream, Wire, chat, delta, event, text, tool_call

_ID = "my-stream-1"
_CHOOSES = f"X-Event-Stream-Id: {_ID}"
_MINE = "Authorization: Bearer mine"


async def agent(request: Request, wire: Wire) -> None:
    await wire.stream(text("Hel"), text("lo"), tool_call(), delta("tool_calls"), DONE, b"")


async def watched(*arguments: str) -> int:
    """The command's exit code. It runs a loop of its own, so it gets a thread of its own."""
    return await asyncio.to_thread(cli.main, ["watch", *arguments])


def kinds(out: str) -> list[str]:
    return [line.split()[1] for line in out.splitlines()]


async def test_a_stream_that_has_ended(
    upstream: Upstream, proxy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream.script = agent
    answer = await chat(proxy, _CHOOSES)
    url = answer.headers["X-Stream-Url"]
    for arguments in (
        (_ID, "--proxy", f"{proxy}/v1"),
        (url, "--proxy", proxy),
        (f"{proxy}{url}",),
        (f"{proxy}/-/streams/{_ID}",),
    ):
        assert await watched(*arguments, "--key", "") == 0
        out, err = capsys.readouterr()
        assert err == ""
        wanted = ["stream.started", "text", "tool.running", "tool.completed", "stream.done"]
        assert kinds(out) == wanted
        assert "Hello" in out
        assert "💻 terminal" in out
        assert "completed" in out
        assert "\x1b" not in out  # no terminal
    assert await watched(_ID, "--proxy", proxy, "--key", "", "--after", "4") == 0
    assert kinds(capsys.readouterr().out) == ["stream.done"]


async def test_a_stream_that_has_not_begun(
    upstream: Upstream, proxy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream.script = agent
    watching = asyncio.ensure_future(watched(_ID, "--proxy", proxy, "--key", ""))
    await asyncio.sleep(0.5)
    await chat(proxy, _CHOOSES)
    assert await watching == 0
    assert kinds(capsys.readouterr().out)[-1] == "stream.done"


async def test_keys(
    upstream: Upstream,
    proxy: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upstream.script = agent
    await chat(proxy, _MINE, "X-Event-Stream-Id: 0b7e6a53-3c1d-4e0a-9f4e-6a2b8d1c5e7f")
    target = f"{proxy}/-/streams/0b7e6a53-3c1d-4e0a-9f4e-6a2b8d1c5e7f"
    assert await watched(target, "--key", "mine") == 0
    monkeypatch.setenv("OPENAI_API_KEY", "mine")
    assert await watched(target) == 0
    monkeypatch.setenv("OTHER", "mine")
    assert await watched(target, "--key", "env:OTHER") == 0
    capsys.readouterr()


async def test_a_stream_that_failed(
    upstream: Upstream, proxy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(tool_call(), event({"error": {"message": "x"}}), b"")

    upstream.script = script
    await chat(proxy, _CHOOSES)
    assert await watched(_ID, "--proxy", proxy, "--key", "") == 1
    out = capsys.readouterr().out
    assert "failed" in out
    assert "upstream_error" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("st_unknown",), "there is no such stream"),
        (("/-/nothing",), "the proxy has nothing at"),
        (("/v1/models",), "no stream is there"),
        (("st_unknown", "--after", "-5"), "a cursor is the number of an event"),
    ],
)
async def test_what_cannot_be_watched(
    upstream: Upstream,
    proxy: str,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert await watched(*arguments, "--proxy", proxy, "--key", "") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ftp://a/b",), "neither an id nor"),
        (("a b",), "neither an id nor"),
        ((_ID, "--key", "env:NO_SUCH_VARIABLE"), "NO_SUCH_VARIABLE is not set"),
        ((_ID, "--after", "x"), "invalid int value"),
    ],
)
def test_wrong_usage(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["watch", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


async def test_nobody_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert await command.watch("http://127.0.0.1:9/-/streams/x/events", "", wait_s=0) == 1
    err = capsys.readouterr().err
    assert "cannot be read: is the proxy at http://127.0.0.1:9?" in err
    assert err.count("connecting anew: cannot connect to 127.0.0.1:9: Connection refused") == 5


async def nothing(_: Request, wire: Wire) -> None:
    wire.close()


async def reset(_: Request, wire: Wire) -> None:
    wire.reset()


async def garbage(_: Request, wire: Wire) -> None:
    await wire.send(b"SSH-2.0-OpenSSH_9\r\n\r\n")
    wire.close()


async def cut(_: Request, wire: Wire) -> None:
    await wire.stream(b": connected\n\n")
    wire.close()


async def busy(_: Request, wire: Wire) -> None:
    body = b'{"error":{"message":"try again"}}'
    await wire.answer(body, "503 Service Unavailable")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (nothing, "the connection was closed without a response"),
        (reset, "the connection broke: Connection reset by peer"),
        (garbage, "what answers is not HTTP"),
        (cut, "the connection broke"),
        (busy, "try again (status 503)"),
    ],
)
async def test_why_it_connects_anew(
    upstream: Upstream, capsys: pytest.CaptureFixture[str], script: Script, words: str
) -> None:
    upstream.script = script
    assert await command.watch(f"{upstream.origin}/-/streams/x/events", "", wait_s=0) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.strip() for line in lines[:5]] == [f"connecting anew: {words}"] * 5


async def test_other_words(
    upstream: Upstream, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(_: Request, wire: Wire) -> None:
        await wire.stream(b": connected\n\n")
        await wire.left()

    upstream.script = silent
    monkeypatch.setattr(command, "_SILENCE_S", 0.05)
    for url, words in (
        (f"{upstream.origin}/x", "nothing came for 0 s"),
        ("http://x.invalid/x", "no address is known for the name x.invalid"),
    ):
        assert await command.watch(url, "", wait_s=0) == 1
        assert capsys.readouterr().err.count(f"connecting anew: {words}") == 5


async def test_tls_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await command.watch(f"https://127.0.0.1:{port}/x", "", wait_s=0) == 1
    words = "connecting anew: TLS with 127.0.0.1 failed: the handshake failed"
    assert capsys.readouterr().err.count(words) == 5


async def test_it_waits_for_a_stream_that_does_not_begin(
    upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    """However often the proxy ends the connection."""
    asked = 0

    async def script(_: Request, wire: Wire) -> None:
        nonlocal asked
        asked += 1
        closed = b'event: closed\ndata: {"reason":"not_begun","message":"not yet"}\n\n'
        done = b'event: stream.done\ndata: {"status":"completed","seq":2}\n\n'
        await wire.stream(closed if asked < 9 else done, b"")

    upstream.script = script
    out = io.StringIO()
    assert await command.watch(f"{upstream.origin}/x", "", stream=out, wait_s=0) == 0
    assert "stream.done" in out.getvalue()
    assert capsys.readouterr().err.count("connecting anew: not yet") == 8


async def test_a_connection_that_breaks_is_made_anew(
    upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    """Watched directly, so that the connection can be cut."""
    cursors: list[str | None] = []

    def block(number: int, kind: str) -> bytes:
        data = f'{{"seq":{number},"ts":{number},"status":"completed"}}'
        return f"id: {number}\nevent: {kind}\ndata: {data}\n\n".encode()

    async def script(request: Request, wire: Wire) -> None:
        cursors.append(request.headers.get("Last-Event-ID"))
        await wire.stream(b": connected\n\n", block(len(cursors), "usage"))
        if len(cursors) == 1:
            wire.reset()
        else:
            await wire.chunk(block(3, "stream.done"))
            await wire.chunk()

    upstream.script = script
    out = io.StringIO()
    url = f"{upstream.origin}/-/streams/x/events"
    assert await command.watch(url, "", stream=out, wait_s=0) == 0
    assert cursors == [None, "1"]
    assert kinds(out.getvalue()) == ["usage", "usage", "stream.done"]
    assert "connecting anew: the connection broke" in capsys.readouterr().err


async def test_odd_events_harm_nothing(upstream: Upstream) -> None:
    odd = (
        b"data: [1]\n\n",
        b"data: {broken\n\n",
        b'event: \x1b[31m\ndata: {"a":"\\u001b[31m"}\n\n',
    )
    done = b'event: stream.done\ndata: {"status":"cancelled","ts":"x","seq":"y"}\n\n'

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(*odd, done, b"")

    upstream.script = script
    out = io.StringIO()
    assert await command.watch(f"{upstream.origin}/x", "", stream=out) == 1
    assert "\x1b" not in out.getvalue()
    assert "\\x1b[31m" in out.getvalue()


def test_lines_in_colour() -> None:
    lines = WatchLines(Paper(60, True))
    call = {"tool": "t", "label": "a label", "emoji": "*", "ts": 1.5}
    (running,) = lines.of("tool.running", call)
    assert running == "\x1b[36m       0.0  tool.running    * t: a label\x1b[0m"
    (failed,) = lines.of("tool.completed", {**call, "ts": 2, "isError": True, "durationMs": 500})
    assert failed == "\x1b[31m     500.0  tool.completed  * t: a label  500 ms  failed\x1b[0m"
    (text_line,) = lines.of("text", {"text": "x" * 100, "kind": "text"})
    assert len(text_line) == 60
    (thought,) = lines.of("text", {"text": "hm", "kind": "reasoning"})
    assert thought.startswith("\x1b[2m")
    (gap,) = lines.of("gap", {"requested": 1, "firstAvailable": 5})
    assert "events 1 to 5" in gap
    (used,) = lines.of("usage", {"inputTokens": 1, "outputTokens": 2})
    assert "1 in, 2 out" in used
    (reset,) = lines.of("reset", {"requested": 9})
    assert "requested=9" in reset
    assert lines.note("x").startswith("\x1b[2m")

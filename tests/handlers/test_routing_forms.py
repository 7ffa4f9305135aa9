"""Forms, such as recordings to transcribe: they are routed by their field ``model``."""

import asyncio
import gzip
from functools import partial
from typing import Any

import pytest
from aiohttp import ClientSession, FormData

from tests.backends import Backend, backends, several
from tests.conftest import StartProxy
from tests.fakes import JSON, Answer, Client, Request, Wire, ask

pytestmark = pytest.mark.usefixtures("quiet")

BOUNDARY = "----form-7"
TYPE = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"
AUDIO = "/v1/audio/transcriptions"
ALIASES: Any = {"speech": ["two/whisper-large", "one/whisper"], "only": "two/whisper-large"}


def part(name: str, content: bytes, more: str = "") -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join((*parts, f"--{BOUNDARY}--\r\n".encode()))


def file(content: bytes) -> bytes:
    return part("file", content, '; filename="a.wav"\r\nContent-Type: audio/wav')


async def says_who(backend: Backend, request: Request, wire: Wire) -> None:
    await wire.answer(b'{"by":"%b"}' % backend.name.encode(), "200 OK", JSON)


def both(*some: Backend) -> dict[str, Any]:
    for one in some:
        one.answer = partial(says_who, one)
    return several(
        some[0].table(models=["whisper"]),
        some[1].table(models=["whisper-*", "gpt-image-*"]),
        models=ALIASES,
    )


async def upload(url: str, body: bytes, *lines: str, target: str = AUDIO) -> Answer:
    return await ask(url, "POST", target, TYPE, *lines, body=body)


@pytest.mark.parametrize("size", [10, 3 << 20])
@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("target", [AUDIO, "/v1/images/edits", "/v1/videos"])
async def test_a_form_goes_where_its_model_is(
    start_proxy: StartProxy, size: int, target: str, *, is_first: bool
) -> None:
    model, sound = part("model", b"whisper-2"), file(bytes(size))
    body = form(model, sound) if is_first else form(sound, model)
    async with backends(one=[], two=[]) as (one, two):
        answer = await upload(await start_proxy(both(one, two)), body, target=target)
        assert answer.json() == {"by": "two"}
        assert two.asked[0].body == body
        assert not one.asked


@pytest.mark.parametrize("size", [10, 3 << 20])
@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("name", [b"speech", b"only", b"two/whisper-large"])
async def test_only_the_bytes_of_the_name_are_replaced(
    start_proxy: StartProxy, size: int, name: bytes, *, is_first: bool, chunked: bool
) -> None:
    model, sound = part("model", name), file(name * (size // len(name)))
    body = form(model, sound) if is_first else form(sound, model)
    async with backends(one=[], two=[]) as (one, two):
        url = await start_proxy(both(one, two))
        if chunked:
            async with Client(url) as client:
                await client.send("POST", AUDIO, TYPE, "Transfer-Encoding: chunked")
                for at in range(0, len(body), 1 << 18):
                    await client.wire.chunk(body[at : at + (1 << 18)])
                await client.wire.send(b"0\r\n\r\n")
                answer = await client.head()
                await answer.read()
        else:
            answer = await upload(url, body)
        assert (answer.status, answer.json()) == (200, {"by": "two"})
        new = part("model", b"whisper-large")
        assert two.asked[0].body == body.replace(model, new)


async def test_what_is_behind_the_model_is_not_waited_for(start_proxy: StartProxy) -> None:
    start, rest = part("model", b"only") + file(b"begin")[:-2], bytes(1 << 20)
    async with backends(one=[], two=[]) as (one, two):
        has_begun = asyncio.Event()

        async def reads(request: Request, wire: Wire) -> None:
            async for _ in request.pieces():
                if len(request.body) == len(start) + len("whisper-large") - len("only"):
                    has_begun.set()
            await wire.answer(b"{}", "200 OK", JSON)

        settings = both(one, two)
        two.lazy, two.answer = True, reads
        async with Client(await start_proxy(settings)) as client:
            length = f"Content-Length: {len(start) + len(rest)}"
            await client.send("POST", AUDIO, TYPE, length)
            await client.wire.send(start)
            async with asyncio.timeout(20):
                await has_begun.wait()
            await client.wire.send(rest)
            assert (await client.head()).status == 200
        assert two.asked[0].body == start.replace(b"only", b"whisper-large") + rest


@pytest.mark.parametrize("is_first", [True, False])
async def test_the_next_target_gets_the_whole_form(
    start_proxy: StartProxy, *, is_first: bool
) -> None:
    model, sound = part("model", b"speech"), file(bytes(2 << 20))
    body = form(model, sound) if is_first else form(sound, model)
    async with backends(one=[], two=[]) as (one, two):
        settings = both(one, two)

        async def fails(_: Request, wire: Wire) -> None:
            await wire.answer(b"{}", "503 Service Unavailable", JSON)

        two.answer = fails
        answer = await upload(await start_proxy(settings), body)
        assert answer.json() == {"by": "one"}
        assert one.asked[0].body == body.replace(b"speech", b"whisper")


async def test_a_model_that_nobody_has_is_refused(start_proxy: StartProxy) -> None:
    async with backends(one=[], two=[]) as (one, two):
        body = form(file(bytes(99)), part("model", "gr\u00f6\u00dfe".encode()))
        answer = await upload(await start_proxy(both(one, two)), body)
        error = answer.json()["error"]
        assert (answer.status, error["code"]) == (404, "model_not_found")
        assert "gr\u00f6\u00dfe" in error["message"]
        assert not one.asked + two.asked


LARGE = 33 << 20


async def test_a_model_behind_too_much_is_not_looked_for(start_proxy: StartProxy) -> None:
    body = form(file(bytes(LARGE)), part("model", b"whisper-2"))
    async with backends(one=[], two=[]) as (one, two):
        url = await start_proxy(both(one, two))
        answer = await upload(url, body)
        error = answer.json()["error"]
        assert (answer.status, error["code"]) == (413, "request_too_large")
        assert "X-Lifecycle-Upstream" in error["message"]
        assert not one.asked + two.asked
        answer = await upload(url, body, "X-Lifecycle-Upstream: two")
        assert answer.json() == {"by": "two"}
        assert two.asked[0].body == body


@pytest.mark.parametrize("target", ["/v1/files", "/v1/uploads/upload_1/parts"])
async def test_uploads_without_a_model_pass_unread(start_proxy: StartProxy, target: str) -> None:
    body = form(file(bytes(LARGE)), part("model", b"whisper-2"))
    async with backends(one=[], two=[]) as (one, two):
        answer = await upload(await start_proxy(both(one, two)), body, target=target)
        assert answer.json() == {"by": "one"}
        assert one.asked[0].body == body


@pytest.mark.parametrize(
    "body",
    [b"", b"RIFF", form(file(b"x")), form(part("model", b"")), part("model", b"whisper-2")[:-3]],
    ids=["empty", "no form", "no model", "empty model", "broken off"],
)
async def test_a_form_without_a_model_goes_to_the_first(
    start_proxy: StartProxy, body: bytes
) -> None:
    async with backends(one=[], two=[]) as (one, two):
        answer = await upload(await start_proxy(both(one, two)), body)
        assert answer.json() == {"by": "one"}
        assert one.asked[0].body == body


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary="])
async def test_without_a_boundary_there_is_no_model(
    start_proxy: StartProxy, content_type: str
) -> None:
    async with backends(one=[], two=[]) as (one, two):
        url, body = await start_proxy(both(one, two)), form(part("model", b"whisper-2"))
        answer = await ask(url, "POST", AUDIO, f"Content-Type: {content_type}", body=body)
        assert answer.json() == {"by": "one"}


@pytest.mark.parametrize(("name", "sent"), [(b"only", b"whisper-large"), (b"whisper-2", None)])
async def test_a_compressed_form_is_looked_into(
    start_proxy: StartProxy, name: bytes, sent: bytes | None
) -> None:
    body = form(file(bytes(99)), part("model", name))
    packed = gzip.compress(body)
    async with backends(one=[], two=[]) as (one, two):
        url = await start_proxy(both(one, two))
        answer = await upload(url, packed, "Content-Encoding: gzip")
        assert answer.json() == {"by": "two"}
        expected = packed if sent is None else body.replace(name, sent)
        assert two.asked[0].body == expected


async def test_the_form_of_a_real_client_is_read(start_proxy: StartProxy) -> None:
    async with backends(one=[], two=[]) as (one, two):
        url = await start_proxy(both(one, two))
        data = FormData({"model": "only", "language": "de"}, quote_fields=False)
        data.add_field("file", bytes(5000), filename="model.wav", content_type="audio/wav")
        async with ClientSession() as session, session.post(url + AUDIO, data=data) as answer:
            assert await answer.json() == {"by": "two"}
        got = two.asked[0]
        assert got.headers["Content-Length"] == str(len(got.body))
        assert b"\r\n\r\nwhisper-large\r\n--" in got.body

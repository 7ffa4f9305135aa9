"""Where a request goes, what is changed of it, and what the client gets."""

import gzip
import json
from typing import Any

import pytest

from tests.backends import backends, complete, several
from tests.conftest import StartProxy
from tests.fakes import DONE, JSON, Client, Request, Wire, ask, chat, text

pytestmark = pytest.mark.usefixtures("quiet")

Models = dict[str, Any]
_CHUNKED = "Transfer-Encoding: chunked"
ALIASES: Models = {"fast": ["local/qwen3:8b", "cloud/gpt-5-mini"], "gpt-5": "cloud/gpt-5"}


@pytest.mark.parametrize(
    ("model", "by", "sent"),
    [
        ("fast", "local", "qwen3:8b"),
        ("gpt-5", "cloud", "gpt-5"),
        ("cloud/any", "cloud", "any"),
        ("gpt-4o", "cloud", "gpt-4o"),
        ("o3", "cloud", "o3"),
        ("qwen3:8b", "local", "qwen3:8b"),
        ("hf/model", "local", "hf/model"),
        (None, "local", None),
    ],
)
async def test_a_request_goes_where_its_model_is(
    start_proxy: StartProxy, model: str | None, by: str, sent: str | None
) -> None:
    async with backends(local=["qwen3:8b", "hf/model"], cloud=["gpt-5"]) as (local, cloud):
        own = several(local.table(), cloud.table(models=["gpt-*", "o*"]), models=ALIASES)
        answer = await complete(await start_proxy(own), model)
        assert (answer.status, answer.json()["by"], answer.json()["model"]) == (200, by, sent)
        assert answer.headers["X-Lifecycle-Upstream"] == by


async def test_an_unknown_model_is_refused_with_the_names_nearest_first(
    start_proxy: StartProxy,
) -> None:
    async with backends(local=["llama3", "qwen3:8b"], cloud=[]) as (local, cloud):
        own = several(local.table(), cloud.table(models=["gpt-*"]), models=ALIASES)
        url = await start_proxy(own)
        for _ in range(2):
            answer = await complete(url, "qwen3:9b")
            error = answer.json()["error"]
            assert (answer.status, error["code"], error["param"]) == (
                404,
                "model_not_found",
                "model",
            )
            text = 'no upstream has the model "qwen3:9b"; there are: qwen3:8b, '
            assert error["message"].startswith(text)
            assert "llama3" in error["message"]
            assert "fast" in error["message"]
        assert local.asked + cloud.asked == []
        assert len(local.requests) == 1  # its list, which is kept


@pytest.mark.parametrize("model", [5, ["a"], {"a": 1}, True])
async def test_a_model_that_is_no_text_is_refused(start_proxy: StartProxy, model: Any) -> None:
    async with backends(local=["a"]) as (local,):
        answer = await complete(await start_proxy(several(local.table())), model)
        assert (answer.status, answer.json()["error"]["code"]) == (400, "bad_request")
        assert local.asked == []


@pytest.mark.parametrize("model", ["", "x" * 1000, "\x00", "é/ü"])
async def test_names_that_are_odd_are_unknown(start_proxy: StartProxy, model: str) -> None:
    async with backends(local=["a"]) as (local,):
        answer = await complete(await start_proxy(several(local.table())), model)
        assert (answer.status, answer.json()["error"]["code"]) == (404, "model_not_found")
        assert len(answer.body) < 600


# --- the name of the upstream, said outright ------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "lines"),
    [
        ("/-/to/cloud/v1/chat/completions", ()),
        ("/-/as/bare/-/to/cloud/v1/chat/completions", ()),
        ("/-/to/cloud/-/as/bare/v1/chat/completions", ()),
        ("/v1/chat/completions", ("X-Lifecycle-Upstream: cloud",)),
    ],
)
@pytest.mark.parametrize(("model", "sent"), [("qwen3:8b", "qwen3:8b"), ("fast", "gpt-5-mini")])
async def test_a_request_may_name_its_upstream(
    start_proxy: StartProxy, target: str, lines: tuple[str, ...], model: str, sent: str
) -> None:
    async with backends(local=["qwen3:8b"], cloud=[]) as (local, cloud):
        own = several(local.table(), cloud.table(), models=ALIASES)
        answer = await complete(await start_proxy(own), model, *lines, target=target)
        assert (answer.json()["by"], answer.json()["model"]) == ("cloud", sent)
        (request,) = cloud.asked
        assert request.target == "/v1/chat/completions"
        assert "x-lifecycle-upstream" not in request.headers


async def test_an_unknown_upstream_is_refused(start_proxy: StartProxy) -> None:
    async with backends(local=["a"], cloud=[]) as (local, cloud):
        url = await start_proxy(several(local.table(), cloud.table()))
        for answer in (
            await ask(url, "GET", "/-/to/clod/v1/models"),
            await complete(url, "a", "X-Lifecycle-Upstream: clod"),
        ):
            error = answer.json()["error"]
            assert (answer.status, error["code"]) == (404, "upstream_not_found")
            assert error["message"] == 'there is no upstream "clod"; there are: cloud, local'


async def test_one_upstream_has_no_prefix_for_it(proxy: str) -> None:
    answer = await ask(proxy, "GET", "/-/to/local/v1/models")
    assert (answer.status, answer.json()["error"]["code"]) == (404, "not_found")


async def test_redirects_keep_the_prefix(start_proxy: StartProxy) -> None:
    async with backends(local=[], cloud=[]) as (local, cloud):

        async def moved(request: Request, wire: Wire) -> None:
            where = f"Location: {cloud.origin}/v1/files/x"
            await wire.answer(b"", "307 Temporary Redirect", where)

        cloud.answer = moved
        url = await start_proxy(several(local.table(), cloud.table()))
        answer = await ask(url, "GET", "/-/to/cloud/v1/files/")
        assert answer.headers["Location"] == "/-/to/cloud/v1/files/x"


# --- rewriting ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages":[{"role":"user","content":"\\"model\\":\\"fast\\""}], "model" : "fast" }',
        b'{\n"model"\t:"fast","x":{"model":"fast"},"y":1e5,"\\u00e9":"\\u00e9"}',
        b'{"model":"other","model":"fast"}',
        b'{"\\u006dodel":"fast"}',
        b'{"model":"\\u0066ast"}',
        b'{"pad":"%b","model":"fast"}' % (b"x" * (9 << 20)),
        b'{"model":"fast","pad":"%b"}' % (b"x" * (2 << 20)),
    ],
    ids=lambda body: f"{len(body)}",
)
@pytest.mark.parametrize("coding", ["", "gzip", "chunked"])
async def test_only_the_value_of_model_is_rewritten(
    start_proxy: StartProxy, body: bytes, coding: str
) -> None:
    if coding == "gzip" and len(body) > 8 << 20:
        pytest.skip("too large to be looked into")
    async with backends(local=[], cloud=[]) as (local, cloud):
        url = await start_proxy(several(local.table(), cloud.table(), models=ALIASES))
        async with Client(url) as client:
            if coding == "chunked":
                await client.send("POST", "/v1/chat/completions", JSON, _CHUNKED)
                await client.wire.chunk(body)
                await client.wire.chunk()
            else:
                sent = gzip.compress(body) if coding else body
                lines = [JSON, "Content-Encoding: gzip"] if coding else [JSON]
                await client.send("POST", "/v1/chat/completions", *lines, body=sent)
            answer = await (await client.head()).read()
        assert answer.json()["by"] == "local"
        (request,) = local.asked
        wanted = json.loads(body, object_pairs_hook=list)
        wanted = [[k, "qwen3:8b" if k == "model" else v] for k, v in wanted]
        assert [list(pair) for pair in json.loads(request.body, object_pairs_hook=list)] == wanted
        assert int(request.headers["Content-Length"]) == len(request.body)
        assert "Content-Encoding" not in request.headers


async def test_without_an_alias_the_body_passes_unchanged(start_proxy: StartProxy) -> None:
    async with backends(local=["m"], cloud=[]) as (local, cloud):
        url = await start_proxy(several(local.table(), cloud.table(), models=ALIASES))
        body = b' {"model" : "m" ,"x":[ 1 ]}\n'
        for sent, lines in ((body, ()), (gzip.compress(body), ("Content-Encoding: gzip",))):
            await ask(url, "POST", "/v1/embeddings", JSON, *lines, body=sent)
            assert local.asked[-1].body == sent


@pytest.mark.parametrize("size", [100, 2 << 20, 9 << 20])
@pytest.mark.parametrize("target", ["/v1/chat/completions", "/v1/embeddings"])
async def test_a_large_body_passes_unchanged_too(
    start_proxy: StartProxy, target: str, size: int
) -> None:
    async with backends(local=["m"], cloud=[]) as (local, cloud):
        url = await start_proxy(several(local.table(), cloud.table(models=["gpt-*"])))
        body = b'{"pad":"%b","model":"gpt-5"}' % (b"x" * size)
        answer = await ask(url, "POST", target, JSON, body=body)
        assert answer.json()["by"] == "cloud"
        assert cloud.asked[0].body == body
        assert cloud.asked[0].headers.getall("Content-Length") == [f"{len(body)}"]
        # Of what is no JSON the model is not looked for, and it is not kept either.
        answer = await ask(url, "POST", "/v1/files", "Content-Type: a/b", body=body)
        assert (answer.json()["by"], local.asked[0].body) == ("local", body)


async def test_a_body_that_is_too_large_needs_an_upstream_by_name(
    start_proxy: StartProxy,
) -> None:
    async with backends(local=["m"], cloud=[]) as (local, cloud):
        url = await start_proxy(several(local.table(), cloud.table(models=["gpt-*"])))
        body = b'{"pad":"%b","model":"gpt-5"}' % (b"x" * (33 << 20))
        answer = await ask(url, "POST", "/v1/chat/completions", JSON, body=body)
        assert (answer.status, answer.json()["error"]["code"]) == (413, "request_too_large")
        target = "/-/to/cloud/v1/chat/completions"
        answer = await ask(url, "POST", target, JSON, body=body)
        assert (answer.status, len(cloud.asked[0].body)) == (200, len(body))


async def test_what_is_no_json_goes_to_the_first(start_proxy: StartProxy) -> None:
    async with backends(local=["m"], cloud=[]) as (local, cloud):
        url = await start_proxy(several(local.table(), cloud.table(), models=ALIASES))
        for body in (b"{'model': 'gpt-5'}", b"[]", b"", b"\xff"):
            answer = await ask(url, "POST", "/v1/chat/completions", JSON, body=body)
            assert answer.json()["by"] == "local"
            assert local.asked[-1].body == body


async def test_a_websocket_names_its_model_in_the_query(start_proxy: StartProxy) -> None:
    async with backends(local=[], cloud=[]) as (local, cloud):
        url = await start_proxy(several(local.table(), cloud.table(), models=ALIASES))
        lines = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        await ask(url, "GET", "/v1/realtime?a=%41&model=gpt-5&b", *lines, key)
        await ask(url, "GET", "/v1/realtime?a=%41&model=fast&b", *lines, key)
        assert [one.target for one in cloud.asked] == ["/v1/realtime?a=%41&model=gpt-5&b"]
        assert [one.target for one in local.asked] == ["/v1/realtime?a=%41&model=qwen3%3A8b&b"]


@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_the_public_name_may_stand_in_answers(start_proxy: StartProxy, size: int) -> None:
    body = b'{"id":"a","model" : "qwen3:8b","x":"\\"model\\":\\"qwen3:8b\\"","y":{"model":"z"}}'
    stream = text("a").replace(b'"up"', b'"qwen3:8b"') + text("b") + DONE

    async def script(request: Request, wire: Wire) -> None:
        if request.json().get("stream"):
            await wire.stream()
            for at in range(0, len(stream), size):
                await wire.chunk(stream[at : at + size])
            await wire.chunk()
        else:
            await wire.answer(body, "200 OK", JSON)

    async with backends(local=[], cloud=[]) as (local, cloud):
        local.answer = script
        tables = (local.table(), cloud.table())
        more: Any = {"upstream__models_in_answers": "public", "models": ALIASES}
        url = await start_proxy(several(*tables, **more))
        answer = await complete(url, "fast")
        assert answer.body == body.replace(b'"qwen3:8b"', b'"fast"', 1)
        answer = await chat(url, model="fast")
        assert answer.body == stream.replace(b"qwen3:8b", b"fast")
        answer = await complete(url, "local/qwen3:8b")
        assert answer.json()["model"] == "local/qwen3:8b"


async def test_bytes_stay_in_answers_by_default(start_proxy: StartProxy) -> None:
    async with backends(local=[], cloud=[]) as (local, cloud):
        url = await start_proxy(several(local.table(), cloud.table(), models=ALIASES))
        assert (await complete(url, "fast")).json()["model"] == "qwen3:8b"


# --- ids ------------------------------------------------------------------------------------------


async def test_ids_go_back_to_the_upstream_that_made_them(start_proxy: StartProxy) -> None:
    async with backends(local=[], cloud=[]) as (local, cloud):
        for one in (local, cloud):
            one.answer = _made(one.name)
        url = await start_proxy(several(local.table(), cloud.table(models=["gpt-*"])))
        key = "Authorization: Bearer a"
        body = b'{"model":"gpt-5","input":"hi"}'
        made = await ask(url, "POST", "/v1/responses", JSON, key, body=body)
        assert made.json()["id"] == "resp_cloud"
        for target in ("/v1/responses/resp_cloud", "/v1/responses/resp_cloud/input_items"):
            assert (await ask(url, "GET", target, key)).json()["by"] == "cloud"
        for named in (
            b'"previous_response_id":"resp_cloud"',
            b'"conversation":{"id":"resp_cloud"}',
        ):
            body = b'{%b,"input":"hi"}' % named
            answer = await ask(url, "POST", "/v1/responses", JSON, key, body=body)
            assert answer.json()["by"] == "cloud"
        for odd in (b'"conversation":{"id":5}', b'"conversation":{}', b'"file_id":["resp_cloud"]'):
            answer = await ask(url, "POST", "/v1/responses", JSON, key, body=b"{%b}" % odd)
            assert answer.json()["by"] == "local"
        # Another user's id decides nothing, nor does one that nobody made.
        other = "Authorization: Bearer b"
        assert (await ask(url, "GET", "/v1/responses/resp_cloud", other)).json()["by"] == "local"
        assert (await ask(url, "GET", "/v1/responses/resp_x", key)).json()["by"] == "local"


async def test_an_id_of_a_stream_is_remembered(start_proxy: StartProxy) -> None:
    async with backends(local=[], cloud=[]) as (local, cloud):
        event = b'event: response.created\ndata: {"response":{"id":"resp_9"}}\n\n'

        async def script(request: Request, wire: Wire) -> None:
            if request.method == "POST":
                await wire.stream(event, b"")
            else:
                await cloud.echo(request, wire)

        cloud.answer = script
        url = await start_proxy(several(local.table(), cloud.table(models=["gpt-*"])))
        body = b'{"model":"gpt-5","input":"hi","stream":true}'
        await ask(url, "POST", "/v1/responses", JSON, body=body)
        assert (await ask(url, "GET", "/v1/responses/resp_9")).json()["by"] == "cloud"


def _made(name: str) -> Any:
    async def script(request: Request, wire: Wire) -> None:
        body = json.dumps({"id": f"resp_{name}", "object": "response", "by": name}).encode()
        await wire.answer(body, "200 OK", JSON)

    return script


# --- credentials ----------------------------------------------------------------------------------

SECRETS = (
    "Authorization: Bearer sk-client",
    "X-Api-Key: sk-client",
    "api-key: sk-client",
    "x-goog-api-key: sk-client",
    "Cookie: session=sk-client",
    "X-Auth-Token: sk-client",
    "X-Own-Key: sk-client",
    "Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.sk-client",
)


async def test_a_clients_key_reaches_no_upstream_that_does_not_ask_for_it(
    start_proxy: StartProxy,
) -> None:
    async with backends(local=["a"], cloud=["b"], other=["c"]) as (local, cloud, other):
        own = several(
            local.table(),
            cloud.table(api_key="sk-cloud", api_key_header="X-Own-Key"),
            other.table(client_key="pass"),
        )
        url = await start_proxy(own)
        for model in ("a", "b", "c"):
            target = "/v1/chat/completions?key=sk-client&x=1&api_key=sk-client"
            assert (await complete(url, model, *SECRETS, target=target)).status == 200
        for one in (local, cloud):
            for request in one.requests:
                assert b"sk-client" not in request.raw
        assert local.asked[0].target == "/v1/chat/completions?x=1"
        assert cloud.asked[0].headers["X-Own-Key"] == "sk-cloud"
        assert "Authorization" not in cloud.asked[0].headers
        assert other.asked[0].headers["Authorization"] == "Bearer sk-client"
        assert {one.headers.get("Authorization") for one in other.requests} == {"Bearer sk-client"}
        assert b"sk-cloud" not in local.requests[0].raw + other.requests[0].raw


async def test_each_upstream_gets_its_own_key(start_proxy: StartProxy) -> None:
    async with backends(local=["a"], cloud=["b"]) as (local, cloud):
        own = several(local.table(api_key="sk-1"), cloud.table(api_key="sk-2"))
        url = await start_proxy(own)
        body = b'{"model":"b","messages":[]}'
        await ask(url, "POST", "/v1/messages", JSON, "X-Api-Key: sk-client", body=body)
        await complete(url, "a")
        assert local.asked[0].headers["Authorization"] == "Bearer sk-1"
        assert cloud.asked[0].headers["Authorization"] == "Bearer sk-2"
        assert cloud.asked[0].headers["X-Api-Key"] == "sk-2"


async def test_the_proxys_own_keys_reach_nobody(start_proxy: StartProxy) -> None:
    async with backends(local=["a"], cloud=["b"]) as (local, cloud):
        own = several(local.table(client_key="pass"), cloud.table(), server__api_keys=["sk-proxy"])
        url = await start_proxy(own)
        assert (await complete(url, "a")).status == 401
        for model in ("a", "b"):
            assert (await complete(url, model, "Authorization: Bearer sk-proxy")).status == 200
        for request in local.requests + cloud.requests:
            assert b"sk-proxy" not in request.raw

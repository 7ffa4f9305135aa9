"""``rediss://``: a Redis behind TLS, with an authority of its own, and with a wrong one."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
import trustme

from tests.app.test_replicas import KEY, Stepwise, events, events_begin, stack, started
from tests.commands import LISTEN, ended, serving
from tests.fakes import Upstream, ask, chatting
from tests.redis_server import RedisServer, needed
from tests.state.replicas import LogReplica, begun, sent

__all__ = ("stack",)

_PASSWORD: Final = "s3cret"


class Files:
    """Certificates: an authority, a server's and a client's, and one of a stranger."""

    def __init__(self, folder: Path) -> None:
        authority, self.folder = trustme.CA(), folder
        self.authority = self._written("ca.pem", authority)
        self.wrong = self._written("wrong.pem", trustme.CA())
        self.server = self._pair("server", authority.issue_cert("127.0.0.1", "localhost"))
        self.client = self._pair("client", authority.issue_cert("client"))
        self.other_name = self._pair("other", authority.issue_cert("redis.example"))

    def _written(self, name: str, authority: trustme.CA) -> str:
        authority.cert_pem.write_to_path(self.folder / name)
        return str(self.folder / name)

    def _pair(self, name: str, issued: trustme.LeafCert) -> tuple[str, str]:
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(b"".join(one.bytes() for one in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return str(certificate), str(key)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("certificates"))


def server(files: Files, own: tuple[str, str], clients: str = "no") -> RedisServer:
    certificate, key = own
    files_ = ("--tls-cert-file", certificate, "--tls-key-file", key)
    tls = (*files_, "--tls-ca-cert-file", files.authority, "--tls-auth-clients", clients)
    return RedisServer(files.folder, "--requirepass", _PASSWORD, tls=tls)


@pytest.fixture
def redis(files: Files) -> Iterator[RedisServer]:
    needed()
    redis = server(files, files.server)
    yield redis
    redis.kill()


def url(redis: RedisServer, query: str, host: str = "127.0.0.1") -> str:
    return f"rediss://:{_PASSWORD}@{host}:{redis.port}/0{query}"


async def test_a_stream_is_read_on_another_replica(
    stack: ExitStack, upstream: Upstream, redis: RedisServer, files: Files
) -> None:
    await redis.start()
    store = url(redis, f"?ssl_ca_certs={files.authority}")
    (_, one), (_, two) = started(stack, upstream, store)
    steps = Stepwise(upstream)
    async with chatting(one, KEY, seen=b"one") as chat:
        stream_id = chat.headers["X-Stream-Id"]
        await events_begin(two, stream_id)
        steps.go_on.set()
        await chat.read()
    assert b"event: stream.done" in (await events(two, stream_id)).body


@pytest.mark.parametrize("query", ["?ssl_ca_certs={wrong}", ""])
async def test_a_certificate_that_is_not_trusted(
    upstream: Upstream, redis: RedisServer, files: Files, query: str
) -> None:
    """The chat goes on, and the log says what is wrong, once, and no password."""
    await redis.start()
    store = url(redis, query.format(wrong=files.wrong))
    environ = {"LIFECYCLE_PROXY_STREAMS__STORE": store}
    with serving(*LISTEN, "--upstream", upstream.origin, **environ) as (process, base, _):
        Stepwise(upstream).go_on.set()
        async with chatting(base) as chat:
            assert (await chat.read()).status == 200
        assert (await ask(base, "GET", "/-/streams/st_x/events")).status == 503
        process.terminate()
        _, out, err = await asyncio.to_thread(ended, process)
    assert err.count("is down") == 1
    assert "certificate verify failed" in err
    assert _PASSWORD not in out + err


async def test_what_else_can_be_set(redis: RedisServer, files: Files) -> None:
    await redis.start()
    right = f"?ssl_ca_certs={files.authority}"
    for query, host, is_good in (
        (right, "localhost", True),
        ("?ssl_cert_reqs=none", "127.0.0.1", True),
        ("?ssl_cert_reqs=required", "127.0.0.1", False),
    ):
        replica = LogReplica(url(redis, query, host))
        async with replica.running():
            (await begun(replica.log)).append("usage", {})
            if is_good:
                await sent(replica.log)
            else:
                await asyncio.sleep(0.3)
        assert replica.health.is_down is not is_good


async def test_another_name_in_the_certificate(files: Files) -> None:
    needed()
    redis = server(files, files.other_name)
    try:
        await redis.start()
        for more, is_good in (("", False), ("&ssl_check_hostname=false", True)):
            replica = LogReplica(url(redis, f"?ssl_ca_certs={files.authority}{more}"))
            async with replica.running():
                await asyncio.sleep(0.5)
            assert replica.health.is_down is not is_good
    finally:
        redis.kill()


async def test_a_redis_that_wants_to_know_its_clients(files: Files) -> None:
    needed()
    redis, (certificate, key) = server(files, files.server, "yes"), files.client
    own = f"&ssl_certfile={certificate}&ssl_keyfile={key}"
    try:
        await redis.start()
        for more, is_good in (("", False), (own, True)):
            replica = LogReplica(url(redis, f"?ssl_ca_certs={files.authority}{more}"))
            async with replica.running():
                await asyncio.sleep(0.5)
            assert replica.health.is_down is not is_good
    finally:
        redis.kill()


async def test_plain_and_tls_do_not_match(redis: RedisServer, tmp_path: Path) -> None:
    await redis.start()
    plain = await RedisServer(tmp_path).start()
    try:
        for store in (f"redis://127.0.0.1:{redis.port}", f"rediss://127.0.0.1:{plain.port}"):
            replica = LogReplica(store, patience_s=0.5)
            async with replica.running():
                await asyncio.sleep(0.8)
            assert replica.health.is_down
    finally:
        plain.kill()

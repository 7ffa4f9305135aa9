"""Settings: where they come from, which wins, and how a wrong one is refused."""

from pathlib import Path
from typing import Any

import pytest

from proxy import config
from proxy.config import ConfigError, Settings

EXAMPLE = Path(__file__).parent.parent / "config.example.toml"
RULE = "[[lifecycle.clients]]\nheader = 'x'\ndialect = "


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def load(
    file: Path | None = None,
    text: str = "",
    environ: dict[str, str] | None = None,
    flags: dict[str, Any] | None = None,
) -> Settings:
    if file is not None:
        file.write_text(text, encoding="utf-8")
    return config.load(file, environ=environ or {}, flags=flags)


# --- what is right ------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_documentation() -> None:
    settings = load()
    assert settings.address == ("127.0.0.1", 8787)
    assert settings.upstream_base == "http://127.0.0.1:11434/v1"
    server, upstream, lifecycle = settings.server, settings.upstream, settings.lifecycle
    assert (server.drain_timeout_s, server.heartbeat_s) == (30, 15)
    assert (server.heartbeat_before_first_byte, server.max_header_bytes) == (False, 65536)
    assert (upstream.connect_timeout_s, upstream.first_byte_timeout_s) == (10, 600)
    assert (upstream.stall_timeout_s, upstream.max_connections) == (300, 0)
    assert upstream.verify_tls is True
    assert (lifecycle.dialect, lifecycle.native) == ("chunk", "translate")
    assert (lifecycle.internal_prefix, lifecycle.label_max) == ("_", 120)
    assert lifecycle.max_event_bytes == 8388608
    assert (lifecycle.span, lifecycle.registry_ttl_s) == ("call", 900)
    assert (lifecycle.builtin_clients, lifecycle.infer_completion) == (True, False)
    assert lifecycle.merge_rounds == "auto"


@pytest.mark.skipif(not EXAMPLE.exists(), reason="no config.example.toml")
def test_the_example_file_is_accepted() -> None:
    config.load(EXAMPLE, environ={})


def test_flags_beat_the_environment_beats_the_file_beats_the_default(file: Path) -> None:
    text = '[server]\nlisten = "127.0.0.1:1"\nheartbeat_s = 1\ndrain_timeout_s = 1'
    environ = {
        "LIFECYCLE_PROXY_SERVER__LISTEN": "127.0.0.1:2",
        "LIFECYCLE_PROXY_SERVER__HEARTBEAT_S": "2",
    }
    settings = load(file, text, environ, {"server.listen": "127.0.0.1:3"})
    assert settings.address == ("127.0.0.1", 3)
    assert (settings.server.heartbeat_s, settings.server.drain_timeout_s) == (2, 1)
    assert settings.upstream.connect_timeout_s == 10


def test_a_flag_that_is_not_given_changes_nothing() -> None:
    assert load(flags={"server.listen": None}) == load()


def test_the_environment_has_short_names() -> None:
    settings = load(
        environ={"LIFECYCLE_PROXY_UPSTREAM": "http://a:1/v1", "LIFECYCLE_PROXY_LISTEN": "0.0.0.0:9"}
    )
    assert (settings.upstream_base, settings.address) == ("http://a:1/v1", ("0.0.0.0", 9))


@pytest.mark.parametrize(
    ("variable", "text", "table", "key", "value"),
    [
        ("UPSTREAM__VERIFY_TLS", "false", "upstream", "verify_tls", False),
        ("UPSTREAM__VERIFY_TLS", "1", "upstream", "verify_tls", True),
        ("UPSTREAM__MAX_CONNECTIONS", "7", "upstream", "max_connections", 7),
        ("SERVER__HEARTBEAT_S", "0.25", "server", "heartbeat_s", 0.25),
        ("LIFECYCLE__INTERNAL_PREFIX", "", "lifecycle", "internal_prefix", ""),
        ("LIFECYCLE__NATIVE", "pass", "lifecycle", "native", "pass"),
        ("LIFECYCLE__MERGE_ROUNDS", "auto", "lifecycle", "merge_rounds", "auto"),
        ("LIFECYCLE__MERGE_ROUNDS", "true", "lifecycle", "merge_rounds", True),
        ("LIFECYCLE__MERGE_ROUNDS", "0", "lifecycle", "merge_rounds", False),
        ("LIFECYCLE__EMOJI", '{ x = "💻" }', "lifecycle", "emoji", {"x": "💻"}),
    ],
)
def test_the_environment_spells_every_type(
    variable: str, text: str, table: str, key: str, value: object
) -> None:
    settings = load(environ={f"LIFECYCLE_PROXY_{variable}": text})
    assert getattr(getattr(settings, table), key) == value


def test_rules_may_come_from_the_environment() -> None:
    rule = '[{ header = "user-agent", match = "x*", dialect = "off" }]'
    (found,) = load(environ={"LIFECYCLE_PROXY_LIFECYCLE__CLIENTS": rule}).lifecycle.clients
    assert (found.header, found.match, found.dialect) == ("user-agent", "x*", "off")


@pytest.mark.parametrize(
    "variable",
    [
        "LIFECYCLE_PROXY_PORT",
        "LIFECYCLE_PROXY_PORT_8787_TCP",
        "LIFECYCLE_PROXY_PORT_8787_TCP_ADDR",
        "LIFECYCLE_PROXY_SERVICE_HOST",
        "LIFECYCLE_PROXY_SERVICE_PORT",
        "LIFECYCLE_PROXY_SERVICE_PORT_HTTP",
        "LIFECYCLE_PROXY_CONFIG",
        "LIFECYCLE_PROXYING",
        "OTHER",
    ],
)
def test_variables_that_are_not_settings_are_ignored(variable: str) -> None:
    assert load(environ={variable: "tcp://10.0.0.1:8787"}) == load()


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFECYCLE_PROXY_LISTEN", "127.0.0.1:4")
    assert config.load().address == ("127.0.0.1", 4)


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("localhost:65535", ("localhost", 65535)),
        ("[::1]:8787", ("::1", 8787)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
    ],
)
def test_addresses_to_listen_on(listen: str, address: tuple[str, int]) -> None:
    assert load(flags={"server.listen": listen}).address == address


@pytest.mark.parametrize(
    ("url", "origin", "base"),
    [
        ("http://h", "http://h", "http://h/v1"),
        ("http://h/", "http://h", "http://h/v1"),
        ("http://h:1/v1", "http://h:1", "http://h:1/v1"),
        ("https://h/v1/", "https://h", "https://h/v1"),
        ("https://h/api/openai", "https://h", "https://h/api/openai"),
        ("http://[::1]:8/v1", "http://[::1]:8", "http://[::1]:8/v1"),
        ("HTTP://Host/v1", "http://Host", "http://Host/v1"),
    ],
)
def test_the_upstream_is_given_as_to_an_sdk(url: str, origin: str, base: str) -> None:
    settings = load(flags={"upstream.url": url})
    assert (settings.upstream_origin, settings.upstream_base) == (origin, base)


# --- what is wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key", "cure"),
    [
        ("[upstream]\nconect_timeout_s = 1", "upstream.conect_timeout_s", "connect_timeout_s?"),
        ("[upstraem]\nurl = 'x'", "upstraem", "did you mean upstream?"),
        ("[server]\nzzz = 1", "server.zzz", "unknown key (known are "),
        ("zzz = 1", "zzz", "known are faults, "),
        ("server = 1", "server", "expected object, got int"),
        ("[server]\nheartbeat_s = '1'", "server.heartbeat_s", "expected float, got str"),
        ("[server]\nheartbeat_s = -1", "server.heartbeat_s", ">= 0"),
        ("[server]\nheartbeat_s = nan", "server.heartbeat_s", ">= 0"),
        ("[server]\nmax_header_bytes = 1", "server.max_header_bytes", ">= 1024"),
        ("[server]\nlisten = 8787", "server.listen", "expected str, got int"),
        ("[upstream]\nverify_tls = 'no'", "upstream.verify_tls", "expected bool, got str"),
        ("[upstream]\nmax_connections = 1.5", "upstream.max_connections", "expected int"),
        ("[upstream]\nmax_connections = -1", "upstream.max_connections", ">= 0"),
        ("[lifecycle]\nnative = 'x'", "lifecycle.native", "'x' (known are translate, pass)"),
        ("[lifecycle]\nspan = 'both'", "lifecycle.span", "'both' (known are call, execution)"),
        (
            "[recording]\nmode = 'recrd'",
            "recording.mode",
            "'recrd' (known are off, record, once, new_episodes, replay)",
        ),
        ("[recording]\nmode = 1", "recording.mode", "(known are off, record, "),
        ("[server]\nlog_format = ''", "server.log_format", "(known are auto, text, json)"),
        ("[lifecycle]\nregistry_ttl_s = -1", "lifecycle.registry_ttl_s", ">= 0"),
        (
            "[lifecycle]\nmerge_rounds = 1",
            "lifecycle.merge_rounds",
            "(known are auto, true, false)",
        ),
        (
            "[lifecycle]\nmerge_rounds = 'on'",
            "lifecycle.merge_rounds",
            "'on' (known are auto, true, false)",
        ),
        ("[lifecycle]\ndialect = 'x'", "lifecycle.dialect", "known are chunk, plain"),
        ("[lifecycle.emoji]\nx = 1", "lifecycle.emoji", "expected str, got int"),
        ("[lifecycle]\nclients = 1", "lifecycle.clients", "expected array, got int"),
        (
            "[[lifecycle.clients]]\nheader = 'x'",
            "lifecycle.clients[0]",
            "missing required field dialect",
        ),
        (
            f"{RULE}'off'\n{RULE}'ofF'",
            "lifecycle.clients[1].dialect",
            "unknown dialect 'ofF' (known are chunk",
        ),
        (
            f"{RULE}'off'\nmacht = 'x'",
            "lifecycle.clients[0].macht",
            "did you mean match?",
        ),
    ],
)
def test_a_wrong_setting_is_refused_with_place_key_and_cure(
    file: Path, text: str, key: str, cure: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(file, text)
    message = str(caught.value)
    assert message.startswith(f"{file}: {key}")
    assert cure in message
    assert caught.value.key.startswith(key)


@pytest.mark.parametrize(
    ("name", "text", "key", "cure"),
    [
        ("UPSTRAEM", "x", "upstraem", "did you mean upstream?"),
        ("SERVER__LISTNE", "x", "server.listne", "did you mean listen?"),
        ("SERVER", "x", "server.", "known are"),
        ("UPSTREAM__MAX_CONNECTIONS", "many", "max_connections", "expected int"),
        ("UPSTREAM__VERIFY_TLS", "maybe", "verify_tls", "expected bool"),
        ("UPSTREAM__STALL_TIMEOUT_S", "-1", "stall_timeout_s", ">= 0"),
        ("LIFECYCLE__CLIENTS", "[{", "clients", "not a TOML value"),
        ("LIFECYCLE__CLIENTS", "x", "lifecycle.clients", "expected object, got str"),
        ("LIFECYCLE__DIALECT", "x", "lifecycle.dialect", "known are chunk"),
        ("RECORDING__MODE", "recrd", "mode", "'recrd' (known are off, record, once, "),
        ("LISTEN", "8787", "server.listen", "is not HOST:PORT"),
        ("UPSTREAM", "localhost:1", "upstream.url", "is not a base URL"),
    ],
)
def test_a_wrong_variable_is_refused_with_its_name(
    file: Path, name: str, text: str, key: str, cure: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(file, "", {f"LIFECYCLE_PROXY_{name}": text})
    message = str(caught.value)
    assert message.startswith(f"environment LIFECYCLE_PROXY_{name}: ")
    assert key in message
    assert cure in message


def test_a_wrong_flag_is_refused_with_its_name(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--listen: server\.listen: 'x' is not HOST:PORT"):
        load(file, '[server]\nlisten = "127.0.0.1:1"', flags={"server.listen": "x"})


@pytest.mark.parametrize(
    "listen",
    ["", "8787", ":8787", "host:", "host:x", "host:65536", "host:-1", "host:٣", "http://h:1/"],
)
def test_an_address_that_cannot_be_listened_on_is_refused(listen: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        load(flags={"server.listen": listen})


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:11434",
        "localhost",
        "ftp://h/v1",
        "http://",
        "http:///v1",
        "http://h:0/v1",
        "http://h:99999/v1",
        "http://h:x/v1",
        "http://[::1/v1",
        "http://h/v1?key=1",
        "http://h/v1#x",
        "http://user:pw@h/v1",
        "http://h/v 1",
        "http://h h/v1",
        "http://h/v1\n",
    ],
)
def test_an_upstream_that_is_no_base_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="base URL"):
        load(flags={"upstream.url": url})


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: No such file"):
        config.load(tmp_path / "none.toml", environ={})
    with pytest.raises(ConfigError, match="Is a directory"):
        config.load(tmp_path, environ={})


@pytest.mark.parametrize(
    "data", [b"= 1", b"[server\n", b"a = 1\na = 2", b"x = '\xff'", b"\xef\xbb\xbf["]
)
def test_a_file_that_is_not_toml_is_refused(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=r"config\.toml: not TOML: "):
        config.load(file, environ={})

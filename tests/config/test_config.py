"""Settings: where they come from, which wins, and how a wrong one is refused."""

from pathlib import Path
from typing import Any

import pytest
from lifecycle_proxy.config import model as config
from lifecycle_proxy.config.model import ConfigError, Settings

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
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


# --- what is wrong: test_mistakes.py has the whole texts -----------------------------------------


def refused(
    file: Path | None, text: str = "", environ: dict[str, str] | None = None, **flags: object
) -> list[str]:
    """The lines of a refusal."""
    with pytest.raises(ConfigError) as caught:
        load(file, text, environ, {key.replace("__", "."): value for key, value in flags.items()})
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("text", "key", "cure"),
    [
        ("[upstream]\nconect_timeout_s = 1", "upstream.conect_timeout_s", "connect_timeout_s?"),
        ("[upstraem]\nurl = 'x'", "upstraem", "did you mean upstream?"),
        ("[server]\nzzz = 1", "server.zzz", "unknown key (known are "),
        ("zzz = 1", "zzz", "known are approvals, "),
        ("server = 1", "server", "1 is not a table; write [server], and its keys below it"),
        ("[server]\nheartbeat_s = '1'", "server.heartbeat_s", "write heartbeat_s = 1"),
        ("[server]\nheartbeat_s = -1", "server.heartbeat_s", "-1 is not a number of seconds, 0 or"),
        ("[server]\nheartbeat_s = nan", "server.heartbeat_s", "nan is not a number of seconds"),
        ("[server]\nheartbeat_s = inf", "server.heartbeat_s", "inf is not a number of seconds"),
        ("[server]\nmax_header_bytes = 1", "server.max_header_bytes", "of bytes, 1024 or more"),
        ("[server]\nlisten = 8787", "server.listen", 'write listen = "127.0.0.1:8787"'),
        ("[upstream]\nverify_tls = 'no'", "upstream.verify_tls", "write verify_tls = false"),
        ("[upstream]\nverify_tls = 'x'", "upstream.verify_tls", '"x" is not true or false'),
        ("[upstream]\nmax_connections = 1.5", "upstream.max_connections", "a whole number, 0 or"),
        ("[upstream]\nmax_connections = -1", "upstream.max_connections", "0 or more"),
        ("[upstream]\nretries = 11", "upstream.retries", "a whole number from 0 to 10"),
        ("[lifecycle]\nnative = 'x'", "lifecycle.native", '"x" (known are translate, pass)'),
        ("[lifecycle]\nspan = 'both'", "lifecycle.span", '"both" (known are call, execution)'),
        ("[recording]\nmode = 1", "recording.mode", "unknown value 1 (known are off, record, "),
        ("[server]\nlog_format = ''", "server.log_format", "(known are auto, text, json)"),
        (
            "[lifecycle]\nmerge_rounds = 1",
            "lifecycle.merge_rounds",
            "unknown value 1 (known are auto, true, false)",
        ),
        (
            "[lifecycle]\nmerge_rounds = 'aut'",
            "lifecycle.merge_rounds",
            '"aut" (did you mean auto? known are auto, true, false)',
        ),
        ("[lifecycle]\nregistry_ttl_s = -1", "lifecycle.registry_ttl_s", "0 or more"),
        ("[lifecycle]\ndialect = 'x'", "lifecycle.dialect", "known are chunk, plain"),
        ("[lifecycle.emoji]\nx = 1", "lifecycle.emoji.x", "1 is not text in quotes"),
        ("[lifecycle]\nemoji = 1", "lifecycle.emoji", "1 is not a table of names and texts"),
        ("[lifecycle]\nclients = 1", "lifecycle.clients", "1 is not a list of tables"),
        ("[lifecycle]\nclients = [1]", "lifecycle.clients[0]", "1 is not a table, such as {"),
        ("[server]\ncors_origins = [[]]", "server.cors_origins[0]", "a list of 0 is not text"),
        ("[server]\ncors_origins = {a = 1}", "server.cors_origins", "a table, where a list of"),
        ("[server]\nlisten = 2020-01-01", "server.listen", "2020-01-01 is not text in quotes"),
        ("[server]\nlisten = 1.5", "server.listen", "1.5 is not text in quotes"),
        ("[upstream]\nretries = '1.5'", "upstream.retries", '"1.5" is not a whole number'),
        (
            f"{RULE}'off'\n{RULE}'ofF'",
            "lifecycle.clients[1].dialect",
            'unknown dialect "ofF" (did you mean off? known are chunk',
        ),
        (
            f"{RULE}'off'\nmacht = 'x'",
            "lifecycle.clients[0].macht",
            "did you mean match?",
        ),
        ("[[faults.rules]]\nkind = 'reset'", "faults.rules[0]", "reset needs byte"),
        ("[[faults.rules]]\nkind = 'reset'\nbyte = -1", "faults.rules[0].byte", "-1 is not a"),
    ],
)
def test_a_wrong_setting_is_refused_with_place_key_and_cure(
    file: Path, text: str, key: str, cure: str
) -> None:
    (message,) = refused(file, text)
    assert message.startswith(f"{file}: {key}: ")
    assert cure in message


@pytest.mark.parametrize(
    ("name", "text", "key", "cure"),
    [
        ("UPSTREAM__MAX_CONNECTIONS", "many", "upstream.max_connections", "a whole number"),
        ("UPSTREAM__VERIFY_TLS", "maybe", "upstream.verify_tls", "not true or false"),
        ("UPSTREAM__STALL_TIMEOUT_S", "-1", "upstream.stall_timeout_s", "0 or more"),
        ("SERVER__HEARTBEAT_S", "5m", "server.heartbeat_s", "; write heartbeat_s = 300"),
        ("LIFECYCLE__CLIENTS", "[{", "lifecycle.clients", "not a TOML list or table"),
        ("LIFECYCLE__CLIENTS", "x", "lifecycle.clients[0]", '"x" is not a table'),
        ("LIFECYCLE__DIALECT", "x", "lifecycle.dialect", "known are chunk"),
        ("RECORDING__MODE", "recrd", "recording.mode", '"recrd" (did you mean record? known are o'),
        ("LISTEN", "8787", "server.listen", "is not HOST:PORT"),
        ("UPSTREAM", "localhost:1", "upstream.url", "is not a base URL"),
    ],
)
def test_a_wrong_variable_is_refused_with_its_name(
    file: Path, name: str, text: str, key: str, cure: str
) -> None:
    (message,) = refused(file, "", {f"LIFECYCLE_PROXY_{name}": text})
    assert message.startswith(f"environment LIFECYCLE_PROXY_{name}: {key}: ")
    assert cure in message


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("UPSTRAEM", "UPSTREAM"),
        ("UPSTREAM_URL", "UPSTREAM"),
        ("SERVER__LISTNE", "LISTEN=127.0.0.1:9000"),
        ("WORKERS", "SERVER__WORKERS"),
        ("SERVER_WORKERS", "SERVER__WORKERS"),
        ("UPSTREAM__HEARTBEAT_S", "SERVER__HEARTBEAT_S"),
        ("API_KEY", "UPSTREAM__API_KEY"),
        ("HOST", "LISTEN=127.0.0.1:9000"),
        ("PORT", "LISTEN=127.0.0.1:9000"),
        ("BASE_URL", "UPSTREAM"),
    ],
)
def test_a_variable_that_names_no_setting_is_refused_with_the_one_that_was_meant(
    name: str, meant: str
) -> None:
    (message,) = refused(None, environ={f"LIFECYCLE_PROXY_{name}": "9000"})
    assert message == (
        f"environment LIFECYCLE_PROXY_{name}: no setting has this name "
        f"(did you mean LIFECYCLE_PROXY_{meant}?)"
    )


@pytest.mark.parametrize("name", ["ZZZ", "SERVER", "SERVER__", ""])
def test_a_variable_like_no_setting_is_refused_with_the_form_of_the_names(name: str) -> None:
    (message,) = refused(None, environ={f"LIFECYCLE_PROXY_{name}": "1"})
    assert "(names are LIFECYCLE_PROXY_TABLE__KEY, such as " in message


def test_a_wrong_flag_is_refused_with_its_name(file: Path) -> None:
    text = '[server]\nlisten = "127.0.0.1:1"'
    (message,) = refused(file, text, server__listen="x")
    assert message.startswith('--listen: server.listen: "x" is not HOST:PORT')


def test_flags_that_there_are_not_are_refused_as_keys_are() -> None:
    assert refused(None, lifecycle__spam=1) == ["lifecycle.spam: unknown key (did you mean span?)"]
    assert refused(None, lifcycle__span=1) == ["lifcycle: unknown key (did you mean lifecycle?)"]


def test_all_mistakes_are_named_at_once_by_their_lines(file: Path) -> None:
    text = """[server]
listen = 5
workers = 0
cors_origins = ["a.example"]

[[lifecycle.clients]]
header = "x"

[upstream]
urll = "x"
api_key = "env:NOT_THERE"
"""
    lines = refused(file, text, {"LIFECYCLE_PROXY_WORKERS": "2"}, server__max_header_bytes=1)
    assert [line.split(": ")[:2] for line in lines[:6]] == [
        [str(file), "server.listen"],
        [str(file), "server.workers"],
        [str(file), "server.cors_origins[0]"],
        [str(file), "lifecycle.clients[0].dialect"],
        [str(file), "upstream.urll"],
        [str(file), "upstream.api_key"],
    ]
    assert [line.rpartition("(")[2] for line in lines[:6]] == [
        *("line 2)", "line 3)", "line 4)", "line 6)", "line 10)", "line 11)")
    ]
    assert lines[6].startswith("environment LIFECYCLE_PROXY_WORKERS: no setting has this name")
    assert lines[7].startswith("server.max_header_bytes: 1 is not a whole number of bytes")
    assert len(lines) == 8


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("[upstream]\napi_key = 5551234", "5551234"),
        ('[upstream]\napi_key = ["hunter2"]', "hunter2"),
        ("[upstream]\napi_key = hunter2", "hunter2"),
        ("[server]\napi_keys = 'hunter2'", "hunter2"),
        ("[server]\napi_keys = [['hunter2']]", "hunter2"),
        ("[server]\napi_keys = ['${HUNTER}', 'hunter2']", "hunter2"),
        ("[upstream]\napikey = 'hunter2'", "hunter2"),
        ("[upstream]\nurl = 'http://me:hunter2@h/v1'", "hunter2"),
        ("[upstream]\nurl = 'http://h/v1?key=hunter2'", "hunter2"),
        ("[upstream]\nurl = 'sk-abcdefghijklmnopqrstuvwxyz0123456789'", "abcdefghijklmnop"),
        ("upstream = 'http://me:hunter2@h/v1'", "hunter2"),
    ],
)
def test_no_secret_is_shown(file: Path, text: str, secret: str) -> None:
    assert secret not in "\n".join(refused(file, text))


@pytest.mark.parametrize("key", ["$NAME", "${NAME}", "env: NAME", "$env:NAME"])
def test_a_variable_in_another_form_is_not_taken_for_a_key(file: Path, key: str) -> None:
    message = refused(file, f"[upstream]\napi_key = '{key}'", {"NAME": "k"})[0]
    assert message.endswith('to read a variable, write "env:NAME" (line 2)')
    assert load(file, "[upstream]\napi_key = 'env:NAME'", {"NAME": "$k"}).upstream.api_key == "$k"


@pytest.mark.parametrize(
    "listen",
    [
        *("", "8787", ":8787", "host:", "host:x", "host:65536", "host:-1", "host:٣", "unix:x"),
        *("http://h:1/", "http://h:1", "a b:1", "::1", "[::x]:1", "[::1]8787"),
    ],
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


@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses", "messages/"])
def test_an_upstream_that_is_one_endpoint_is_refused_with_its_base_url(path: str) -> None:
    (message,) = refused(None, upstream__url=f"http://h:1/v1/{path}")
    assert message.endswith('is one endpoint; write its base URL, "http://h:1/v1"')
    (message,) = refused(None, upstream__url=f"unix:/run/x.sock:/v1/{path}")
    assert message.endswith('"unix:/run/x.sock:/v1"')


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: No such file .*; check the path$"):
        config.load(tmp_path / "none.toml", environ={})
    with pytest.raises(ConfigError, match=r"Is a directory; name the file in it, such as .*toml$"):
        config.load(tmp_path, environ={})
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match=r"loop: Too many levels of symbolic links$"):
        config.load(tmp_path / "loop", environ={})


def test_a_file_that_may_not_be_read_is_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)  # root may read all
    with pytest.raises(ConfigError, match="Permission denied; give this user the right to read it"):
        config.load(file, environ={})


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"= 1", "invalid statement (line 1, column 1)"),
        (b"[server\n", "expected ']' at the end of a table declaration (line 1, column 8)"),
        (b"a = 1\r\na = 2", "a is set twice (lines 1 and 2); keep one of them"),
        (b"[a]\nb = 1\n[a]", "a is set twice (lines 1 and 3); keep one of them"),
        (b"x = '''\n[a]\nb\n'''\nb = 1\n[b]", "b is set twice (lines 5 and 6); keep one of them"),
        (b"a = [1,", "invalid value (at the end of the file); close the quote or bracket that is "),
        (b"\xef\xbb\xbf[", "invalid initial character for a key part (at the end of the file)"),
        (b"x = hello # y", 'invalid value (line 1, column 5); text needs quotes: x = "hello"'),
        (b"x = True", "invalid value (line 1, column 5); write x = true"),
        (b"x: 1", "line 1, column 2); write x = ..., with an equals sign"),
        (b"x y", "expected '=' after a key in a key/value pair (line 1, column 3)"),
        (b"export x = 1", "(line 1, column 8); leave out export"),
        (b'x = "a"b', "expected newline or end of document after a statement (line 1, column 8)"),
        (b"x = " + b"[" * 9999, "brackets are nested too deeply"),
    ],
)
def test_a_file_that_is_not_toml_is_refused(file: Path, data: bytes, problem: str) -> None:
    file.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        config.load(file, environ={})
    assert str(caught.value).startswith(f"{file}: not valid TOML: ")
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("data", "place"), [(b"x = 1\ny = '\xe4'", "0xe4 (line 2)"), (b"\xff\xfex\0", "0xff (line 1)")]
)
def test_a_file_that_is_not_utf_8_is_refused(file: Path, data: bytes, place: str) -> None:
    file.write_bytes(data)
    with pytest.raises(ConfigError, match="not UTF-8 text") as caught:
        config.load(file, environ={})
    assert str(caught.value).endswith(f"byte {place}; save the file as UTF-8")


def test_a_byte_order_mark_is_read_over(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf[server]\nworkers = 2")
    assert config.load(file, environ={}).server.workers == 2


def test_the_faults_of_a_file_alone(file: Path) -> None:
    file.write_text("[server]\nspam = 1\n[[faults.rules]]\nkind = 'status_500'")
    assert [rule.kind for rule in config.read_faults(file).rules] == ["status_500"]
    file.write_text("[server]\nspam = 1")
    with pytest.raises(ConfigError, match=r"faults: there is no table \[faults\] in this file"):
        config.read_faults(file)

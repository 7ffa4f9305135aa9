"""``[streams]``: the URL of the store, and what is shown of it."""

import subprocess
import sys
from pathlib import Path

import pytest
from lifecycle_proxy.config import model as config
from lifecycle_proxy.config.shared_store import without_secrets

from tests.commands import run_here


def problem(store: str, **environ: str) -> str:
    flags = {"streams.store": store}
    with pytest.raises(config.ConfigError) as raised:
        config.load(environ=environ, flags=flags)
    (one,) = raised.value.problems
    return str(one)


@pytest.mark.parametrize(
    "store",
    [
        "memory",
        "redis://localhost",
        "redis://127.0.0.1:6379/3",
        "rediss://user:pass@redis.example:6380/0?ssl_cert_reqs=none&health_check_interval=5",
        "redis://:pass@[::1]:6379",
    ],
)
def test_what_a_store_may_be(store: str) -> None:
    settings = config.load(environ={"S": store}, flags={"streams.store": "env:S"})
    assert settings.streams.store == store
    assert config.load(environ={}, flags={"streams.store": store}) == settings


@pytest.mark.parametrize(
    "store",
    [
        "",
        "disk",
        "http://localhost",
        "redis://",
        "redis://host:0",
        "redis://host:99999",
        "redis://host/name",
        "redis://host/1/2",
        "redis://host/0#x",
        "redis://[host",
        "user:s3cret@host",
    ],
)
def test_what_it_may_not(store: str) -> None:
    for text in (problem(store), *([problem("env:S", S=store)] if store else [])):
        assert "streams.store" in text
        assert "redis://HOST:PORT/DB" in text
        assert "s3cret" not in text


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ("redis://h/0?foo=s3cret", "unknown option 'foo' (known are ssl_ca_certs, "),
        ("rediss://h/0?ssl_ca_cert=/x", "did you mean ssl_ca_certs?"),
        ("redis://h/0?ssl_ca_certs=/x", "ssl_ca_certs is for TLS: the URL must begin with rediss:"),
        ("rediss://h/0?ssl_cert_reqs=never", "is one of required, optional, none, not 'never'"),
        ("redis://h/0?health_check_interval=x", "is a number of seconds, not 'x'"),
        ("rediss://h/0?ssl_ca_certs=/no/ca.pem", "/no/ca.pem: No such file or directory"),
        ("rediss://h/0?ssl_certfile=/no/c.pem&ssl_keyfile=/no/k.pem", "/no/c.pem: No such file"),
        ("rediss://h/0?ssl_ca_certs=/proc/self/status", "there is no certificate in it"),
    ],
)
def test_options_that_cannot_be_used(store: str, words: str) -> None:
    for text in (problem(store), problem("env:S", S=store)):
        assert words in text.replace('"', "'")
        assert "s3cret" not in text


def test_a_key_for_tokens_that_is_short() -> None:
    for key in ("short", "env:TOKEN"):
        with pytest.raises(config.ConfigError, match="at least 32 characters"):
            config.load(environ={"TOKEN": "short"}, flags={"streams.token_key": key})


def test_no_key_is_printed(tmp_path: Path) -> None:
    key = "k" * 40
    file = tmp_path / "config.toml"
    file.write_text(
        f'[streams]\ntoken_key = "{key}"\n[upstream]\nagent = ["sh"]\nenv = {{A = "{key}"}}\n'
    )
    done = run_here("check-config", str(file))
    assert done.returncode == 0, done.stderr
    assert "streams.token_key" in done.stdout
    assert key not in done.stdout + done.stderr


def test_a_password_belongs_in_front_of_the_host() -> None:
    text = problem("redis://host?password=s3cret")
    assert "redis://:PASSWORD@HOST" in text
    assert "s3cret" not in text


def test_a_variable_that_is_not_set() -> None:
    assert "STORE_URL is not set" in problem("env:STORE_URL")


@pytest.mark.parametrize("prefix", ["", "a b", "x" * 65, "a\n"])
def test_a_prefix(prefix: str) -> None:
    with pytest.raises(config.ConfigError, match=r"streams\.prefix"):
        config.load(environ={}, flags={"streams.prefix": prefix})


def test_check_config_shows_no_password(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[streams]\nstore = "rediss://user:s3cret@redis.example/1"\nprefix = "mine"\n')
    done = run_here("check-config", str(file))
    assert done.returncode == 0
    assert "rediss://redis.example/1" in done.stdout
    assert 'streams.prefix = "mine"' in done.stdout
    assert "s3cret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("store", "shown"),
    [
        ("memory", "memory"),
        ("env:NAME", "env:NAME"),
        ("redis://:a@b@host/0?x=y", "redis://host/0"),
        ("redis:secret@host", "redis:"),
    ],
)
def test_what_is_shown(store: str, shown: str) -> None:
    assert without_secrets(store) == shown


@pytest.mark.parametrize("key", ["resume_s", "text", "arguments", "compat_paths"])
def test_what_needs_streams_that_are_kept(tmp_path: Path, key: str) -> None:
    value = "60" if key == "resume_s" else "true"
    file = tmp_path / "config.toml"
    file.write_text(f"[streams]\nmax_streams = 0\n{key} = {value}\n")
    done = run_here("check-config", str(file))
    assert done.returncode == 2
    why = f"streams.{key}: needs streams that are kept: max_streams is 0"
    assert f"{why}; set max_streams (10000 is the default), or leave {key} out" in done.stderr
    file.write_text(f"[streams]\nmax_streams = 1\n{key} = {value}\n")
    assert run_here("check-config", str(file)).returncode == 0


def test_without_the_package_it_says_what_to_install(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[streams]\nstore = "redis://redis.example"\n')
    code = "import sys; sys.modules['redis'] = None\n"
    code += "from lifecycle_proxy.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = (sys.executable, "-c", code, "check-config", str(file))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "needs the package redis" in done.stderr
    assert "pip install 'redis>=6'" in done.stderr

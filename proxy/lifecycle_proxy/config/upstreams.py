"""Checks of the upstreams, and of the names that lead to them."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from lifecycle_proxy.config import agents, patterns
from lifecycle_proxy.config.plain import quoted
from lifecycle_proxy.config.targets import NamedUpstream, leads, upstreams_of

if TYPE_CHECKING:
    from lifecycle_proxy.config.model import Settings

Found = Iterator[tuple[str, str]]  # keys and texts

_ENDPOINT: Final = re.compile(r"/(?:chat/completions|completions|responses|messages)/*$")
_NAME: Final = re.compile("[a-z0-9-]{1,64}")  # it is a label of metrics, and in paths
_MODEL: Final = re.compile(r"[^\s\x00-\x1f\x7f]{1,256}")
_USUAL_URL: Final = "http://127.0.0.1:11434/v1"


def problems(settings: "Settings") -> Found:
    """What is wrong with ``[upstream]``, ``[[upstreams]]`` and ``[models]``."""
    yield from _url(settings.upstream.url, "upstream.url")
    yield from agents.problems(settings.upstream, "upstream", settings.server.workers)
    if settings.upstreams and settings.upstream.agent:
        yield "upstream.agent", "has no effect: move it into a table [[upstreams]] of its own"
    if settings.upstreams and settings.upstream.api_key:
        text = "would be sent to every upstream; move it into the [[upstreams]] that it is for"
        yield "upstream.api_key", text
    first: dict[str, int] = {}
    for at, one in enumerate(settings.upstreams):
        key = f"upstreams[{at}]"
        yield from _named(one, key)
        yield from agents.problems(one, key, settings.server.workers)
        if first.setdefault(one.name, at) != at:
            text = f"{quoted(one.name)} is upstreams[{first[one.name]}] already; choose another"
            yield f"{key}.name", text
    yield from _models(settings)


def doubtful(settings: "Settings") -> Found:
    """What is accepted, and has no effect or another one than it seems."""
    if settings.upstreams:
        if settings.upstream.url != _USUAL_URL:
            yield "upstream.url", "has no effect: the [[upstreams]] have URLs of their own"
        for at, one in enumerate(settings.upstreams):
            before = [other for other in settings.upstreams[:at] if "*" in other.models]
            if before and one.models:
                who = f'"*" of {before[0].name}, which comes first'
                text = f"never reached without its name: {who}, takes all models"
                yield f"upstreams[{at}].models", f"{text}; put {one.name} before it"
            if one.api_key and one.client_key == "pass":
                yield f"upstreams[{at}].client_key", "has no effect: api_key is sent in its place"
            if one.api_key_header and not one.api_key:
                yield f"upstreams[{at}].api_key_header", "has no effect: api_key is not set"
    elif not settings.models and settings.failover.in_stream:
        yield "failover.in_stream", "has no effect: there is one upstream"


def _named(one: NamedUpstream, key: str) -> Found:
    if not _NAME.fullmatch(one.name):
        what = "1 to 64 lower-case letters, digits and hyphens, such as"
        near = re.sub("[^a-z0-9]+", "-", one.name.lower()).strip("-")[:64] or "local"
        yield f"{key}.name", f"{quoted(one.name)} is not {what} {quoted(near)}"
    if one.agent and one.url:
        yield f"{key}.agent", "is another upstream than url; write a table for each"
    elif not (one.agent or one.url):
        yield f"{key}.url", "missing; each of these tables needs url, or agent"
    elif not one.agent:
        yield from _url(one.url, f"{key}.url")
    for number, pattern in enumerate(one.models):
        if problem := _no_pattern(pattern):
            yield f"{key}.models[{number}]", f"{quoted(pattern)} {problem}"
    if one.api_key_header:
        yield from patterns.header_name(one.api_key_header, f"{key}.api_key_header")
    if one.url.lower().startswith("https:") and not one.api_key and one.client_key == "auto":
        text = f'missing: {one.name} would be asked without a key; write api_key = "env:NAME", or'
        yield f"{key}.api_key", f'{text} client_key = "pass" (the client\'s), or "drop" (none)'


def _no_pattern(pattern: str) -> str:
    """Why no name of a model can match; "" if one can."""
    if not _MODEL.fullmatch(pattern):
        return 'is not a name or a shell pattern, such as "gpt-*"'
    opened = pattern.replace("[[]", "").replace("[]]", "")
    if opened.count("[") != len(re.findall(r"\[!?\]?[^\]]*\]", opened)):
        return 'has a "[" that is not closed; write "[[]" for the character itself'
    return ""


def _models(settings: "Settings") -> Found:
    found: list[tuple[str, str]] = []
    for name, written in settings.models.items():
        if not _MODEL.fullmatch(name):
            found.append((f"models.{name}", "a model's name has 1 to 256 characters, and no space"))
        if not written or [] in (written if isinstance(written, list) else ()):
            example = f"{upstreams_of(settings)[0].name}/MODEL"
            found.append((f"models.{name}", f"leads nowhere; write [{quoted(example)}]"))
    names = [one.name for one in upstreams_of(settings)]
    leads(settings.models, names, lambda key, text: found.append((key, text)))
    yield from found


def _url(text: str, key: str) -> Found:
    if not text.startswith("unix:/"):
        try:
            url = urlsplit(text)
            good = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        except ValueError:
            url, good = SplitResult("", "", "", "", ""), False
        extra = url.query or url.fragment or url.username is not None
        if not good or extra or not text.isprintable() or " " in text:
            yield key, _no_url(text, url, key.rpartition(".")[0])
            return
    if _ENDPOINT.search(text):
        base = _ENDPOINT.sub("", text)
        yield key, f"{quoted(text)} is one endpoint; write its base URL, {quoted(base)}"


def _no_url(text: str, url: SplitResult, table: str) -> str:
    cure = ""
    if url.username is not None:
        cure = f"; a key belongs into {table}.api_key"
    elif url.query or url.fragment:
        cure = "; leave out what follows after ? or #"
        text = re.split("[?#]", text)[0]  # keys are there, too
    elif re.fullmatch(r"[\w.-]+(:\d+)?(/\S*)?", text):
        cure = f"; write {quoted(f'http://{text}')}"
    what = "a base URL, such as http://127.0.0.1:11434/v1, nor unix:/PATH"
    return f"{quoted(text)} is not {what} (no query, no user name){cure}"

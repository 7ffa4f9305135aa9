"""Random settings and requests, and a small model of the rules: does each request go where it must?

    python fuzz/fuzz_routes.py --seconds 60

Each case is one set of settings (upstreams, patterns, lists, names that lead to names, equal
targets, upstreams that fail) in front of four scripted backends, and some requests over sockets.
The model of the rules below is written from docs/routing.md, not from the code. What must hold:

- A request reaches one of the upstreams that the rules allow, under the model's name there.
- Where all of them fail, the client gets the error of one of them; where none is allowed, a 404.
- Only the bytes of the model's name differ from what the client sent.

A failure can be played again: ``--seed N --count 1``.
"""

import argparse
import asyncio
import fnmatch
import json
import logging
import random
import sys
import time
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lifecycle_proxy.app import serve as server
from lifecycle_proxy.config import model as config

from tests.backends import Backend, several
from tests.fakes import JSON, Answer, Request, Wire, ask

NAMES: Final = ("a", "b", "gpu-1", "cloud")
MODELS: Final = ("m", "m2", "gpt-4", "gpt-5", "org/m", "a/m", "qwen3:8b", "x/y/z", "é")
PATTERNS: Final = ("*", "gpt-*", "m?", "org/*", "[mq]*", "qwen3:8b", "nothing")
ALIASES: Final = ("fast", "m", "gpt-5", "a/alias", "big", "other")
BEHAVIOUR: Final = ("well", "well", "well", "refuses", "fails", "closes")
_REQUESTS: Final = 12
_FAILING: Final = ("fails", "closes")

Target = tuple[str, str | None]
Groups = list[list[Target]]


class MisroutedError(Exception):
    """A request did not go where the rules say."""


class Case:
    """One set of settings."""

    def __init__(self, rng: random.Random, backends: list[Backend]) -> None:
        chosen = rng.sample(backends, rng.randint(1, len(backends)))
        self.names = [one.name for one in chosen]
        self.lists = {one.name: rng.sample(MODELS, rng.randint(0, 4)) for one in chosen}
        self.patterns = {
            name: rng.sample(PATTERNS, rng.randint(1, 2)) if rng.random() < 0.5 else []
            for name in self.names
        }
        self.behaviour = {one.name: rng.choice(BEHAVIOUR) for one in chosen}
        self.models = self._models(rng)
        self.backends = {one.name: one for one in chosen}
        for one in chosen:
            one.models = self.lists[one.name]
            one.answer = _script(one, self.behaviour[one.name])
            one.requests.clear()

    def _models(self, rng: random.Random) -> dict[str, Any]:
        """Names that lead to upstreams, or to names that come later: there are no circles."""
        names = rng.sample(ALIASES, rng.randint(0, 4))
        models: dict[str, Any] = {}
        for at, name in enumerate(names):
            targets = [f"{rng.choice(self.names)}/{rng.choice(MODELS)}" for _ in range(3)]
            later = [one for one in names[at + 1 :] if one.partition("/")[0] not in self.names]
            if later and rng.random() < 0.4:
                targets.append(rng.choice(later))
            rng.shuffle(targets)
            written: list[Any] = targets[: rng.randint(1, 4)]
            if rng.random() < 0.3:
                written = [written, *rng.sample(targets, 1)]
            models[name] = written[0] if len(written) == 1 and rng.random() < 0.5 else written
        return models

    def settings(self) -> config.Settings:
        tables = [
            one.table(models=self.patterns[name]) if self.patterns[name] else one.table()
            for name, one in self.backends.items()
        ]
        own = several(*tables, models=self.models, server__listen="127.0.0.1:0")
        return config.load(environ={}, flags={**own, "server.drain_timeout_s": 0})

    # --- the model of the rules -----------------------------------------------------------------

    def allowed(self, model: Any, named: str) -> Groups | str:
        """The targets, in groups; or the code of the refusal."""
        if model is not None and not isinstance(model, str):
            return "bad_request"
        if named and named not in self.names:
            return "upstream_not_found"
        if named:
            return [self._at(named, model)]
        if model is None:
            return [[(self.names[0], None)]]
        return self._by_name(model)

    def _by_name(self, model: str) -> Groups | str:
        if model in self.models:
            return self._followed(model)
        upstream, slash, rest = model.partition("/")
        if slash and rest and upstream in self.names:
            return [[(upstream, rest)]]
        for name in self.names:
            if model and any(fnmatch.fnmatchcase(model, one) for one in self.patterns[name]):
                return [[(name, model)]]
        for name in self.names:
            if not self.patterns[name] and model in self.lists[name]:
                return [[(name, model)]]
        return "model_not_found"

    def _at(self, named: str, model: str | None) -> list[Target]:
        """What a name means at the upstream that the request asks for."""
        if model in self.models:
            for group in self._followed(model):
                if kept := [one for one in group if one[0] == named]:
                    return kept
        if model is None:
            return [(named, None)]
        return [(named, model.removeprefix(f"{named}/") or model)]

    def _followed(self, name: str) -> Groups:
        written = self.models[name]
        found: Groups = []
        for one in [written] if isinstance(written, str) else written:
            if isinstance(one, str):
                found += self._target(one)
            else:
                found.append([t for text in one for group in self._target(text) for t in group])
        seen: set[Target] = set()
        kept: Groups = []
        for group in found:
            fresh = [one for one in dict.fromkeys(group) if one not in seen]
            seen.update(fresh)
            kept += [fresh] if fresh else []
        return kept

    def _target(self, text: str) -> Groups:
        upstream, slash, rest = text.partition("/")
        if slash and upstream in self.names:
            return [[(upstream, rest)]]
        return self._followed(text)

    def answering(self, groups: Groups) -> list[Target]:
        """Those that may answer: of the first group with one that does; all where all fail."""
        for group in groups:
            if well := [one for one in group if self.behaviour[one[0]] not in _FAILING]:
                return well
        return [one for group in groups for one in group]


def _script(backend: Backend, behaviour: str) -> Any:
    async def script(request: Request, wire: Wire) -> None:
        told = json.dumps({"by": backend.name, "body": request.body.decode()}).encode()
        if behaviour == "closes":
            wire.close()
        else:
            status = {"well": "200 OK", "refuses": "404 No", "fails": "500 No"}[behaviour]
            await wire.answer(told, status, JSON)

    return script


async def play(case: Case, rng: random.Random, url: str) -> None:
    """One request, and what became of it."""
    model: Any = rng.choice([*MODELS, *ALIASES, None, "", "unknown", 5])
    if isinstance(model, str) and rng.random() < 0.2:
        model = f"{rng.choice(case.names)}/{model}"
    named = rng.choice(["", "", "", *NAMES])
    target, lines = "/v1/chat/completions", [JSON]
    if named and rng.random() < 0.5:
        target = f"/-/to/{named}{target}"
    elif named:
        lines.append(f"X-Lifecycle-Upstream: {named}")
    members = [("messages", []), ("model", "decoy")] if rng.random() < 0.1 else [("messages", [])]
    members = members if model is None else [*members, ("model", model)]
    if model is None:
        members = [one for one in members if one[0] != "model"]
    answer = await ask(url, "POST", target, *lines, body=written(members).encode())
    where = f"model {model!r}, upstream {named!r}: {answer.status} {answer.body[:300]!r}"
    check(case, answer, (model, named, members), where)


def check(
    case: Case, answer: Answer, asked: tuple[Any, str, list[tuple[str, Any]]], where: str
) -> None:
    """Whether a request went where it must.

    Raises:
        MisroutedError: it did not.
    """
    model, named, members = asked
    groups = case.allowed(model, named)
    if isinstance(groups, str):
        if answer.json()["error"]["code"] != groups:
            raise MisroutedError(f"{where}; {groups} is right")
        return
    right = case.answering(groups)
    if answer.status == 502 and "error" in answer.json():
        if not any(case.behaviour[name] == "closes" for name, _ in right):
            raise MisroutedError(f"{where}; {right} is right")
        return
    by, body = answer.json()["by"], answer.json()["body"]
    name = json.loads(body).get("model")
    if (by, name) not in right or answer.headers["X-Lifecycle-Upstream"] != by:
        raise MisroutedError(f"{where}; {right} is right")
    if name != model and body != written(members, json.dumps(name, ensure_ascii=False)):
        raise MisroutedError(f"{where}: the body is {body!r}")


def written(members: list[tuple[str, Any]], model: str = "") -> str:
    """The body of a request, perhaps with another model."""
    texts = ((key, json.dumps(value)) for key, value in members)
    text = ",".join(f'"{k}" :{model if model and k == "model" else v}' for k, v in texts)
    return f"{{ {text} }}"


async def run(first: int, seconds: float, count: int) -> tuple[int, int]:
    """Play cases.

    Returns:
        How many sets of settings, and how many requests.
    """
    backends = [Backend(name) for name in NAMES]
    for one in backends:
        await one.start()
    cases = requests = 0
    end = time.monotonic() + seconds
    try:
        while cases < count and time.monotonic() < end:
            seed = first + cases
            rng = random.Random(seed)  # noqa: S311  not a secret
            case = Case(rng, backends)
            runner, url = await server.start(case.settings())
            try:
                for _ in range(_REQUESTS):
                    await play(case, rng, url)
                    requests += 1
            except Exception as failure:
                text = f"--seed {seed}: {failure}\n{case.models} {case.patterns} {case.lists}"
                raise MisroutedError(f"{text} {case.behaviour}") from failure
            finally:
                await server.stop(runner, 0)
            cases += 1
    finally:
        for one in backends:
            await one.stop()
    return cases, requests


def main() -> int:
    """Run it. 0 if all held."""
    parser = argparse.ArgumentParser(description="Random settings and requests, routed.")
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, help="of the first case (default: the time)")
    parser.add_argument("--count", type=int, default=1 << 60, help="how many cases at most")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    first = time.time_ns() // 1_000_000 if asked.seed is None else asked.seed
    try:
        cases, requests = asyncio.run(run(first, asked.seconds, asked.count))
    except MisroutedError as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        return 1
    print(f"{cases} settings, {requests} requests from --seed {first}: 0 misrouted")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Which upstream answers a request, by the settings and what the request says. A pure decision.

The rules, in this order; the first that applies decides:

1. an upstream that the request names, by header or by its base URL;
2. the upstream that made an id in the request (a stored response, a file);
3. without a model: the first upstream;
4. ``[models]``, by the exact name;
5. ``UPSTREAM/MODEL``;
6. the first upstream that has a pattern for the name;
7. the first upstream that lists the name.
"""

import fnmatch
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import chain, islice
from typing import Final, NamedTuple

from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.config.targets import Groups, Target, leads, upstreams_of
from lifecycle_proxy.exchange.errors import ProxyError

_LONGEST_NAME: Final = 256  # of a model; longer ones are not compared with anything
_REMEMBERED: Final = 1024  # names whose choice is
_COMPARED: Final = 64  # names that are compared letter by letter
_KNOWN: Final = 10_000  # names that are looked through
_SHOWN: Final = 20
_SHOWN_LENGTH: Final = 80

Lists = Mapping[str, Collection[str]]


class RequestFacts(NamedTuple):
    """What decides where a request goes.

    Attributes:
        model: the value of ``model``; None without one.
        upstream: the name that the request asks for, in a header or in its path; "" without one.
        made_by: the upstream that made an id in the request; "" if that is not known.
    """

    model: str | None = None
    upstream: str = ""
    made_by: str = ""


class RouteChoice:
    """Where a request goes.

    Args:
        groups: targets in order of preference; those of one group are equal.
        why: the rule, for people.

    Attributes:
        only: the target, if there is no other.
        has_equals: some targets are equal, so the conversation counts.
    """

    __slots__ = ("groups", "has_equals", "only", "why")

    def __init__(self, groups: Groups, why: str) -> None:
        self.groups = groups
        self.why = why
        self.has_equals = any(len(group) > 1 for group in groups)
        is_one = len(groups) == 1 and not self.has_equals
        self.only: Target | None = groups[0][0] if is_one else None

    def renames(self, model: str | None) -> bool:
        """Whether a target knows the model by another name than the request.

        Args:
            model: as the request names it; None without one.
        """
        return any(target.model not in ("", model) for group in self.groups for target in group)


class RouteTable:
    """The rules of one set of settings.

    Args:
        settings: ``[[upstreams]]`` and ``[models]``.
    """

    def __init__(self, settings: Settings) -> None:
        own = upstreams_of(settings)
        self.names = tuple(one.name for one in own)
        self.aliases = leads(settings.models, self.names)
        # Those without patterns have what they list.
        self.listing = tuple(one.name for one in own if not one.models)
        self._patterns = [(one.name, one.models, _regular(one.models)) for one in own]
        # Clients ask for the same few models again and again.
        self._by_model = lru_cache(_REMEMBERED)(self._chosen)

    def serves(self, upstream: str, model: str) -> bool:
        """Whether the patterns of an upstream, if it has any, allow a name of its list.

        Args:
            upstream: a name.
            model: a name of its list.
        """
        for name, patterns, match in self._patterns:
            if name == upstream and patterns:
                return match(model) is not None
        return True

    def maybe_choice(self, facts: RequestFacts) -> RouteChoice | None:
        """The decision by every rule but the last; None where the lists decide.

        Raises:
            ProxyError: ``upstream_not_found``.
        """
        model = facts.model
        if facts.upstream:
            return self._named(facts.upstream, model)
        if model is None:
            if facts.made_by:
                return RouteChoice(_one(facts.made_by, ""), f"{facts.made_by} made this id")
            return RouteChoice(_one(self.names[0], ""), "no model is named: the first upstream")
        choice = self.maybe_by_model(model)
        if choice is not None and facts.made_by:
            # Nobody else knows the id.
            kept = tuple(t for group in choice.groups for t in group if t.upstream == facts.made_by)
            if kept:
                return RouteChoice((kept,), f"{facts.made_by} made this id")
        return choice

    def maybe_by_model(self, model: str) -> RouteChoice | None:
        """The decision where a request says nothing but its model; None where the lists decide."""
        return self._by_model(model) if len(model) <= _LONGEST_NAME else self._chosen(model)

    def by_lists(
        self, facts: RequestFacts, lists: Lists, missing: Sequence[str] = ()
    ) -> RouteChoice:
        """The decision by what upstreams list.

        Args:
            facts: of a request that no other rule decides.
            lists: the names that each upstream lists.
            missing: upstreams whose list could not be read.

        Raises:
            ProxyError: ``model_not_found``; ``upstream_unreachable`` if a list is missing, since
                the model may be there.
        """
        model = facts.model or ""
        for name in self.listing:
            if model in lists.get(name, ()):
                return RouteChoice(_one(name, model), f"{name} lists it")
        text = f"no upstream has the model {_shown(model)}"
        if missing:
            whose = ", ".join(missing)
            text = f"{text} as far as is known: the list of {whose} could not be read"
            raise ProxyError("upstream_unreachable", text, "model")
        raise ProxyError("model_not_found", f"{text}; {self.known(model, lists)}", "model")

    def known(self, model: str, lists: Lists) -> str:
        """The names that there are, for a message, the nearest first.

        Args:
            model: what was asked for.
            lists: the names that each upstream lists.
        """
        names = dict.fromkeys(islice(chain(self.aliases, self._listed(lists)), _KNOWN))
        return _known(model, names)

    def _chosen(self, model: str) -> RouteChoice | None:
        if (groups := self.aliases.get(model)) is not None:
            return RouteChoice(groups, "named in [models]")
        upstream, slash, rest = model.partition("/")
        if slash and rest and upstream in self.names:
            return RouteChoice(_one(upstream, rest), f"{upstream} is named in front of the model")
        if 0 < len(model) <= _LONGEST_NAME:
            for name, patterns, match in self._patterns:
                if patterns and match(model):
                    fits = (one for one in patterns if fnmatch.fnmatchcase(model, one))
                    return RouteChoice(_one(name, model), f'"{next(fits)}" of {name} matches')
        return None

    def _named(self, upstream: str, model: str | None) -> RouteChoice:
        if upstream not in self.names:
            text = f"there is no upstream {_shown(upstream)}"
            raise ProxyError("upstream_not_found", f"{text}; {_known(upstream, self.names)}")
        why = f"the request asks for {upstream}"
        if model is None:
            return RouteChoice(_one(upstream, ""), why)
        for group in self.aliases.get(model, ()):
            if kept := tuple(target for target in group if target.upstream == upstream):
                return RouteChoice((kept,), why)
        return RouteChoice(_one(upstream, model.removeprefix(f"{upstream}/") or model), why)

    def _listed(self, lists: Lists) -> Iterable[str]:
        for name in self.names:
            yield from (one for one in lists.get(name, ()) if self.serves(name, one))


def nearest(name: str, known: Collection[str]) -> list[str]:
    """Names by their likeness to one, the nearest first. The cost is bounded.

    Args:
        name: what was asked for.
        known: the names that there are.
    """
    asked = name[:_SHOWN_LENGTH].lower()

    def rough(one: str) -> tuple[bool, int]:
        """Cheap, for thousands of names: is one within the other, how long is the same start."""
        low = one[:_SHOWN_LENGTH].lower()
        pairs = zip(asked, low, strict=False)
        same = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(asked), len(low)))
        return (not (low in asked or asked in low), -same)

    ordered = sorted(known, key=rough)
    first, rest = ordered[:_COMPARED], ordered[_COMPARED:]
    likeness = SequenceMatcher(b=asked, autojunk=False)

    def ratio(one: str) -> float:
        likeness.set_seq1(one[:_SHOWN_LENGTH].lower())
        return -likeness.ratio()

    return [*sorted(first, key=ratio), *rest]


def _one(upstream: str, model: str) -> Groups:
    return ((Target(upstream, model),),)


def _regular(patterns: Sequence[str]) -> Callable[[str], re.Match[str] | None]:
    return re.compile("|".join(map(fnmatch.translate, patterns))).match


def _shown(name: str) -> str:
    short = name if len(name) <= _SHOWN_LENGTH else f"{name[: _SHOWN_LENGTH - 1]}…"
    return json.dumps(short, ensure_ascii=False)


def _known(name: str, known: Collection[str]) -> str:
    """The names that there are, the nearest first, as many as a message may have."""
    if not known:
        return "no names are known"
    shown = [one[:_SHOWN_LENGTH] for one in nearest(name, known)[:_SHOWN]]
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return f"there are: {', '.join(shown)}{more}"

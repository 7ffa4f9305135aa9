"""The page that draws exchanges: of a running proxy (live), or of a recording that it holds.

One HTML, a style sheet and ES modules, as they lie here: no build step, nothing from elsewhere. A
running proxy serves them as files. In a recording's page they are all in one: a policy allows that
script and that style sheet by their hashes, and no network.
"""

import base64
import functools
import hashlib
import html
import re
from importlib import resources
from typing import Final

# In the order in which they use each other.
_MODULES: Final = (
    "text.js",
    "bars.js",
    "exchange.js",
    "recording.js",
    "lanes.js",
    "live.js",
    "main.js",
)
_EMBEDDED: Final = ("text.js", "bars.js", "embed.js")
_STYLE: Final = "view.css"
FILES: Final = {_STYLE: "text/css", **dict.fromkeys(_MODULES, "text/javascript")}
_HOLE: Final = re.compile(r"\{\{(head|title|tail)\}\}")
_LEFT_OUT: Final = re.compile(r"^ +(?!//)|^ *//.*\n", re.MULTILINE)
_IMPORT: Final = re.compile(r"^import .*?;\n", re.MULTILINE)
_EXPORT: Final = re.compile(r"^export ", re.MULTILINE)
# What a served page may do: nothing but its own files, and its own requests to this proxy.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@functools.cache
def file(name: str) -> str:
    """The text of one of ``FILES``, or of the page. Comments and indents stay here."""
    return _LEFT_OUT.sub("", resources.files(__package__).joinpath(name).read_text("utf-8"))


def live_page(where: str) -> str:
    """The page of a running proxy.

    Args:
        where: the URL of the files, with a slash at its end.
    """
    head = (
        # Without an icon a browser would ask the upstream for /favicon.ico.
        f'<link rel="icon" href="data:,">\n<link rel="stylesheet" href="{where}{_STYLE}">\n'
        f'<script type="module" src="{where}{_MODULES[-1]}"></script>'
    )
    return _filled("lifecycle-proxy", head, "")


def page_of(title: str, data: str) -> str:
    """A page that holds what it draws, and needs no other file.

    Args:
        title: any text.
        data: JSON without ``<``.
    """
    # It has no connection to anything: live.js stays out, and what it alone needs.
    modules = [name for name in _MODULES if name not in ("lanes.js", "live.js", "main.js")]
    script = '"use strict";\n' + "".join(_plain(file(name)) for name in modules)
    script += 'showRecording(JSON.parse(document.getElementById("data").textContent));\n'
    style = file(_STYLE)
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style}</style>'
    tail = f'<script type="application/json" id="data">{data}</script>\n<script>{script}</script>'
    return _filled(f"{title} – recording", head, tail)


def embedded_page() -> tuple[str, str]:
    """The page in the message of a chat, which asks for the events of one stream; its policy."""
    script = (
        '"use strict";\n' + "".join(_plain(file(name)) for name in _EMBEDDED) + "showTools();\n"
    )
    style = file(_STYLE)
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'"
    )
    head = f"<style>{style}</style>"
    tail = f"<script>{script}</script>"
    return _filled("Tools of this answer", head, tail, "embed.html"), policy


def _filled(title: str, head: str, tail: str, page: str = "index.html") -> str:
    text = html.escape(title.encode("utf-8", "replace").decode())
    holes = {"title": text, "head": head, "tail": tail}
    return _HOLE.sub(lambda hole: holes[hole[1]], file(page))


def _plain(module: str) -> str:
    """A module as a part of one script."""
    return _EXPORT.sub("", _IMPORT.sub("", module))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

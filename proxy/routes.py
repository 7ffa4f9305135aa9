"""What a request asks for, by its method and its path.

Only the end of the path counts, so that base URLs of any form are alike: ``/v1/responses``,
``/responses``, ``/openai/v1/responses``.
"""

import re
from typing import Final
from urllib.parse import parse_qs

from proxy.exchange import Vocabulary

_POSTED: Final[dict[str, Vocabulary]] = {
    "/chat/completions": "chat",
    "/responses": "responses",
    "/messages": "messages",
}
# A message is added to a thread of the Assistants API there; nothing is answered.
_THREAD: Final = re.compile(r"/threads/[^/]+/messages\Z")
# A stored response, which can be streamed again.
_RESPONSE: Final = re.compile(r"/responses/[^/]+\Z")


def maybe_vocabulary(method: str, target: str) -> Vocabulary | None:
    """The API of a conversation; None for any other request.

    Args:
        target: raw path and query.
    """
    path, _, query = target.partition("?")
    if method == "GET" and _RESPONSE.search(path):
        asked = parse_qs(query).get("stream", [""])[-1]
        return "responses" if asked.lower() in ("true", "1") else None
    if method != "POST" or _THREAD.search(path):
        return None
    return next((api for end, api in _POSTED.items() if path.endswith(end)), None)

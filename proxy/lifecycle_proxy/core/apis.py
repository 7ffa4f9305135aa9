"""The three APIs whose event streams get lifecycle frames, one ``Api`` record each.

All that differs between them hangs on the record, so no other module asks for an API by its name. A
new API is one record here, an observer and an error frame.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from lifecycle_proxy.core.counts import Counts
from lifecycle_proxy.core.dialects import Dialect
from lifecycle_proxy.core.dialects.writer import Writer
from lifecycle_proxy.core.error_frames import (
    ErrorFrame,
    chat_error,
    messages_error,
    responses_error,
)
from lifecycle_proxy.core.observers import Observer
from lifecycle_proxy.core.observers.chat import ChatObserver
from lifecycle_proxy.core.observers.messages import MessagesObserver
from lifecycle_proxy.core.observers.responses import ResponsesObserver

ApiName = Literal["chat", "responses", "messages"]


@dataclass(frozen=True, slots=True)
class Api:
    """One API.

    Attributes:
        name: in logs, metrics, settings and recordings.
        path: how the paths end that its requests are posted to.
        id_prefix: what the ids of its answers begin with.
        observer: makes the observer of one stream.
        writer: makes the writer of one stream in a dialect.
        error_frame: an error as an event.
        spans_requests: the span ``execution`` is known: results come with the next request.
        merges_rounds: several answers in one stream can be made to look like one.
        can_go_on: another backend can be asked to go on with an answer that has broken off.
        sdk_version_decides: of OpenAI's SDKs some versions break on a frame of the usual form,
            whatever dialect was asked for.
    """

    name: ApiName
    path: str
    id_prefix: str
    observer: Callable[[Counts], Observer]
    writer: Callable[[Dialect], Writer]
    error_frame: ErrorFrame
    spans_requests: bool = False
    merges_rounds: bool = False
    can_go_on: bool = False
    sdk_version_decides: bool = False


CHAT: Final = Api(
    "chat",
    "/chat/completions",
    "chatcmpl-",
    ChatObserver,
    lambda dialect: dialect.chat(),
    chat_error,
    spans_requests=True,
    merges_rounds=True,
    can_go_on=True,
)
RESPONSES: Final = Api(
    "responses",
    "/responses",
    "resp_",
    ResponsesObserver,
    lambda dialect: dialect.responses(),
    responses_error,
    sdk_version_decides=True,
)
MESSAGES: Final = Api(
    "messages",
    "/messages",
    "msg_",
    MessagesObserver,
    lambda dialect: dialect.messages(),
    messages_error,
)
# By name.
APIS: Final[dict[str, Api]] = {api.name: api for api in (CHAT, RESPONSES, MESSAGES)}

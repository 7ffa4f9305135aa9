"""All ways in which an exchange ends, in one table.

================  ==============  ========  =======  ==============  =======================
how               code of error   upstream  client   open calls      with the reason
================  ==============  ========  =======  ==============  =======================
done, eof         --              eof       eof      by what it saw  ``upstream_eof``
upstream_error    upstream_...    cut       cut      cut             ``upstream_error``
timeout           ..._timeout     timeout   cut      cut             ``upstream_timeout``
drained           draining        gone      cut      cut             ``drained``
stopped           stopped         gone      cut      cut             ``stopped``
client_gone       --              gone      gone     cancelled       ``client_disconnected``
refused           any             --        eof      --              --
================  ==============  ========  =======  ==============  =======================

A side that ended in another way than its row says is reported with ``Listener.on_side_end``: an
upstream that reset the connection, a client whose dialect wants a proper end behind the error
frame, a client to which only a reset shows that the end is broken.
"""

from typing import Final, Literal, NamedTuple

# How an exchange ended: properly, at the end of all that belongs to it; properly, but an event
# stream without its [DONE]; cut by the upstream, by the client, by a time limit, by a shutdown, by
# a person at the live page; or answered with an error of the proxy's. "" while it goes on.
Ended = Literal[
    "done", "eof", "upstream_error", "client_gone", "timeout", "drained", "stopped", "refused", ""
]
# How the bytes of a side ended: properly; by a reset; closed before all was there; by a time limit
# of the proxy's; because the client was gone. "" where they never began, or it was not recorded.
SideEnd = Literal["eof", "reset", "cut", "timeout", "gone", ""]


class EndRow(NamedTuple):
    """A row of the table.

    Attributes:
        upstream: how the upstream's side ended.
        client: how the client's side ended.
        reason: what events say of calls that were open.
    """

    upstream: SideEnd
    client: SideEnd
    reason: str


ENDS: Final[dict[Ended, EndRow]] = {
    "done": EndRow("eof", "eof", "upstream_eof"),
    "eof": EndRow("eof", "eof", "upstream_eof"),
    "upstream_error": EndRow("cut", "cut", "upstream_error"),
    "timeout": EndRow("timeout", "cut", "upstream_timeout"),
    "drained": EndRow("gone", "cut", "drained"),
    "stopped": EndRow("gone", "cut", "stopped"),
    "client_gone": EndRow("gone", "gone", "client_disconnected"),
    "refused": EndRow("", "eof", ""),
}
_BY_CODE: Final[dict[str, Ended]] = {
    "upstream_timeout": "timeout",
    "draining": "drained",
    "stopped": "stopped",
}


def ended_by(code: str) -> Ended:
    """How a response that had begun ends by an error of the proxy's.

    Args:
        code: see ``errors.STATUS``.
    """
    return _BY_CODE.get(code, "upstream_error")

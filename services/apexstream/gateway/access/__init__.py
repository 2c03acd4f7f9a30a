"""Access: who may come in, as whom, for how long, and how much of it.

What a protocol does about it, and no more:

* HTTP (Durable Streams, SSE, MCP, anything): nothing to come in, :class:`Guard` stands before every route. Then one line::

      principal = principal_of(request)
      principal.require(Verb.READ, stream_id)  # raises Forbidden: 403

  and ask ``streams.check(principal, stream_id)`` (:mod:`apexstream.gateway.ownership`) whether it is this tenant's stream; a
  stranger's is unknown. Before a task is made: ``access.submitting(principal)``.
* Sockets: ``pass_of(websocket)`` has the principal, or gets it from the first message (:mod:`passes`).

:mod:`principal` scopes and verbs, :mod:`tokens` JSON Web Tokens, :mod:`keys` their keys, :mod:`tickets` one-time tickets,
:mod:`origins` pages and host names, :mod:`limits` buckets and counts, :mod:`gate` the guard, :mod:`build` wires it from
settings, :mod:`issue` makes keys and tokens for development. ``docs/security.md`` is for users.
"""

from apexstream.gateway.access.gate import Access, Guard, pass_of, principal_of
from apexstream.gateway.access.passes import Pass
from apexstream.gateway.access.principal import OPEN, Principal, Verb

__all__ = [
    "OPEN",
    "Access",
    "Guard",
    "Pass",
    "Principal",
    "Verb",
    "pass_of",
    "principal_of",
]

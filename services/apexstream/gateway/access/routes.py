"""``POST /tickets``: a one-time ticket for whoever shows a token."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from apexstream.gateway.access.gate import Access, principal_of
from apexstream.gateway.access.tickets import TICKET_S
from apexstream.gateway.answers import answer
from apexstream.gateway.openapi import operation


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """To be shown once within ``expires_in_s``, by a page of the same origin, in place of a token."""

    ticket: str
    expires_in_s: int


def ticket_routes(access: Access) -> list[BaseRoute]:
    """Where tickets are made."""

    @operation({201: Ticket})
    async def tickets(request: Request) -> Response:
        """``POST /tickets``: a one-time ticket for a socket, or for a GET that can set no header."""
        made = access.ticket(principal_of(request), request.headers)
        return answer(Ticket(ticket=made, expires_in_s=int(TICKET_S)), 201)

    return [Route("/tickets", tickets, methods=["POST"])]

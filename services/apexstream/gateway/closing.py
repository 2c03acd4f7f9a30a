"""Close codes that this gateway gives by itself; ``schemas/gateway/close-codes.json`` has all, with what a client should do."""

from enum import IntEnum


class Close(IntEnum):
    """4000 to 4399: connect again and resume. 4400 to 4499: once the cause is gone."""

    DRAINING = 4000
    SLOW = 4008
    UNAUTHENTICATED = 4401
    LIMIT = 4429

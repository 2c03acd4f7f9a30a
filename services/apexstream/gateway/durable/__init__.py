"""The Durable Streams protocol (HTTP) at ``/ds/…``: any path is a stream that is written and read from outside.

:mod:`requests` reads headers, :mod:`messages` bodies, :mod:`producers` decides what an append does (all pure). :mod:`writer`
is the writing end of one stream, :mod:`writers` all that this gateway holds, :mod:`paths` which stream a path names,
:mod:`reading` what a reader is given, :mod:`routes` the HTTP of it.
"""

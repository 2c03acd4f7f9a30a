"""The gateway: takes submissions and control over HTTP and relays streams in several protocols.

:mod:`hub` is the delivery engine, which every protocol reads through: :mod:`encoding` says what a protocol adds to it,
:mod:`subscription` is one viewer's reading, :mod:`reader` the same for protocols that answer a request with a stream,
:mod:`cursors` how anyone comes back. :mod:`registry` is what the gateway knows of tasks and actions, :mod:`app` assembles
the routes of the protocols, :mod:`build` wires it all.
"""

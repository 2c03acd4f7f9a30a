"""The gateway: takes submissions and control over HTTP and relays streams over WebSockets.

:mod:`frames` is the wire format (pure), :mod:`hub` the delivery engine, :mod:`viewer` one socket's end of it,
:mod:`registry` what the gateway knows of tasks and actions, :mod:`app` the routes, :mod:`build` wires it.
"""

"""Streams for chat libraries: the UI message stream of the AI SDK, and AG-UI.

Both are encodings over the delivery engine (:mod:`ui_messages`, :mod:`ag_ui`, pure), told to one reader by :mod:`telling`, served
by :mod:`routes`. Neither knows places in a stream: a reader that comes back is told everything from the beginning, as their
clients expect.
"""

"""The Model Context Protocol: every plugin action is a tool, and its result says where the stream is, so that nothing is lost
when a call breaks. ``docs/mcp.md`` says what a client can rely on.

What a call does is in ``calls``, over the port ``desk``; the gateway's own side of the port is ``inside``, the command line's
goes through the client. Only ``server`` imports the SDK, which takes a second and 56 MB: ``endpoint`` loads it when the first
client comes.
"""

"""Long jobs that lose next to nothing when they are cut off: one action for each way to go on.

``action`` is the plugin itself; ``digest``, ``sieve`` and ``listing`` do the work and know nothing of streams, ``merkle``
and ``reading`` serve them.
"""

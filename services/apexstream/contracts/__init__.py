"""The contracts between services: what their records look like and which topics carry them.

The only reader of the folder ``schemas/``: :mod:`~apexstream.contracts.codec` turns values into bytes and back,
:mod:`~apexstream.contracts.catalogue` says which topics exist, :mod:`~apexstream.contracts.evolution` what may change.
"""

"""The dispatcher: owns the order of work. Reads what was submitted, knows what runners can take, writes assignments.

:mod:`fifo` decides (pure), :mod:`service` is the loop around it, :mod:`build` wires it.
"""

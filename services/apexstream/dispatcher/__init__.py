"""The dispatcher: owns the order of work. Reads what was submitted, knows what runners can take, writes assignments.

:mod:`scheduler` decides (pure; with :mod:`policy`, :mod:`queue`, :mod:`fleet`, :mod:`gates`), :mod:`service` is the loop
around it, :mod:`build` wires it.
"""

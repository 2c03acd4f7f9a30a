"""The dispatcher: owns the order of work. Reads what was submitted, knows what runners can take, writes assignments.

:mod:`scheduler` decides (pure; with :mod:`policy`, :mod:`queue`, :mod:`fleet`, :mod:`gates`), :mod:`facts` and :mod:`lease`
know what other services and dispatchers said, :mod:`service` is the loop around them, :mod:`build` wires it.
"""

"""The runner: takes assignments, runs actions and appends their chunks.

:mod:`appender` turns yields into runs of chunks, :mod:`attempt` is one try at a task from fence to end, :mod:`service`
takes assignments and commits what is finished, :mod:`build` wires it.
"""

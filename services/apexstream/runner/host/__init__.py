"""Where actions run: :mod:`port` is the contract, :mod:`process` runs them in child processes, :mod:`local` in this one.

The runner's attempts know only the port.
"""

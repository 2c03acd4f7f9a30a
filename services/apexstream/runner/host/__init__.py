"""Where actions run: :mod:`port` is the contract, :mod:`process` runs them in child processes, :mod:`local` in this one.

Both share :mod:`engine`, which drives one action. Of a child process, :mod:`child` is the inside (limited by
:mod:`confine`) and :mod:`life` the outside, with :mod:`link` as the guard at the socket and :mod:`frames` as its language;
:mod:`pool` keeps them running. The runner's attempts know only the port.
"""

"""The command line, and the composition root of every process.

:mod:`app` declares the commands and imports nothing heavy; each command's work is a module of its own that is imported
when the command runs. Data goes to standard output, everything else to standard error.
"""

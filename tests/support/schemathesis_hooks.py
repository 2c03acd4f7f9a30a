"""Loaded by schemathesis' own process (SCHEMATHESIS_HOOKS)."""

import gc

# Python 3.11 now and then fails to parse ("AST constructor recursion depth mismatch") when garbage is collected meanwhile,
# and hypothesis parses the source of every lambda that it meets. One run is short enough to go without collections.
gc.disable()

"""Pure vocabulary of the platform: ids, chunks, the fold, tiers, tasks, errors.

Nothing here does I/O, reads a clock or draws a random number; everything else may import it.
"""

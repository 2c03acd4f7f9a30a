"""What the streams of the fault workload hold: a pure function of a task's key and the index of its data chunk.

The plugin yields it, the checker computes it again. Each digest is chained to the one before, so a state that was
restored at the wrong place shows in every later chunk.
"""

from hashlib import blake2b

SEED = "0" * 16


def digest_after(before: str, key: str, index: int) -> str:
    """The digest in data chunk ``index`` of stream ``key``, whose predecessor's digest is ``before``."""
    return blake2b(f"{before}/{key}/{index}".encode(), digest_size=8).hexdigest()


def digests(key: str, count: int) -> list[str]:
    """The digests of the first ``count`` data chunks."""
    found, digest = [], SEED
    for index in range(count):
        digest = digest_after(digest, key, index)
        found.append(digest)
    return found

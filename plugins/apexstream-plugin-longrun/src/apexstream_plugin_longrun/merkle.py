"""Binary Merkle trees as RFC 9162 (2.1.1) defines them, built a leaf at a time with a state that grows with the logarithm."""

from hashlib import sha256

_LEAF, _NODE = b"\x00", b"\x01"  # keep a leaf from passing for a node


class MerkleTree:
    """The tree over the leaves added so far. ``count`` and ``peaks`` are all of its state: the roots of the complete subtrees
    from left to right, one for each bit set in ``count``."""

    __slots__ = ("count", "peaks")

    def __init__(self, count: int = 0, peaks: list[bytes] | None = None) -> None:
        self.count = count
        self.peaks = list(peaks or [])

    def add(self, leaf: bytes) -> None:
        """Append a leaf."""
        node = sha256(_LEAF + leaf).digest()
        joined = self.count
        while joined & 1:  # two subtrees of the same size become one
            node = _join(self.peaks.pop(), node)
            joined >>= 1
        self.peaks.append(node)
        self.count += 1

    def root(self) -> bytes:
        """The root hash, 32 bytes; of no leaves, that of nothing."""
        if not self.peaks:
            return sha256().digest()
        *left, root = self.peaks
        while left:
            root = _join(left.pop(), root)
        return root


def _join(left: bytes, right: bytes) -> bytes:
    return sha256(_NODE + left + right).digest()

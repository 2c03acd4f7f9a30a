"""The pace at which tests tear viewers off: neither the viewer nor the writer ever waits for the other."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.tearing import Tears

CHUNKS, TEARS = 10_000, 100


def written(tears: Tears, rng: random.Random, next_seq: int, held: int, taken: int) -> int:
    """How many chunks the stream has when the writer waits."""
    while next_seq < CHUNKS and tears.may_write(next_seq, taken=taken, held=held):
        next_seq = min(CHUNKS, next_seq + rng.randint(1, 60))
    return next_seq


@pytest.mark.parametrize("rewound", [0, 300])
@given(seed=st.integers(0, 1 << 32), quick=st.floats(0, 1))
def test_a_viewer_that_takes_all_there_is_comes_to_every_tear(rewound: int, seed: int, quick: float) -> None:
    rng = random.Random(seed)
    tears = Tears(every=CHUNKS // (TEARS + 5), most=TEARS)
    next_seq = held = taken = 0
    while tears.torn < TEARS:
        next_seq = written(tears, rng, next_seq, held, taken)
        if tears.torn == TEARS // 2 and rewound:  # an attempt goes back, which the viewer does not know yet
            next_seq, rewound = max(0, next_seq - rewound), 0
            next_seq = written(tears, rng, next_seq, held, taken)
            held = min(held, next_seq)
        available = taken + next_seq - held
        assert available >= tears.due, f"after {tears.torn} tears the writer waits at {next_seq}"
        taken, held = (available, next_seq) if rng.random() < quick else (tears.due, held + tears.due - taken)
        tears.tear(taken)
    assert held <= CHUNKS

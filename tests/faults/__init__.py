"""The proof that streams survive anything: a harness that kills, a checker that reads the raw topics, and the cases.

:mod:`checker` judges and knows nothing of the product's own code; :mod:`harness` runs real processes under load and ends
them; ``python -m tests.faults`` is the long run. Start with :mod:`rules`, which says what a stream contains.
"""

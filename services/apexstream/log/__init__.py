"""The log: everything that speaks Kafka's protocol. No other package imports aiokafka.

:mod:`writer` appends, :mod:`fetcher` reads partitions directly and follows their tails, :mod:`group` reads as a member of
a consumer group, :mod:`admin` makes topics, :mod:`broker` runs a real Kafka on this machine.
"""

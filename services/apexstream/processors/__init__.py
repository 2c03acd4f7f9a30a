"""Pipelines: operators on streams, durably on Kafka.

Decisions are pure: ``items`` is what flows, ``rows`` what is remembered, ``elementwise``, ``windows``, ``joins`` and
``combining`` are the steps, ``chain`` puts them together. ``feeder`` brings folded inputs to a job, ``job`` steps and writes,
``agents`` is the Faust application, ``faust_mends`` what of Faust had to be mended; ``build`` binds it all together.
"""

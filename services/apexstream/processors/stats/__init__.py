"""Statistics: windows of 1 s, 1 min and 1 h of every action and of the newest streams, folded from chunks and task events.

:mod:`fold` decides (pure), :mod:`agent` binds it to Faust. Nothing here knows of pipelines.
"""

"""The same transformation in both forms: operators in a plugin, and a pipeline on Kafka. On the history of a Git repository.

``action`` is the plugin, ``composed`` the operators, ``pipeline`` the definition; ``history`` and ``people`` read.
"""

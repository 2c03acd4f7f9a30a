"""A plugin that reads a directory of source files and streams what it finds, one chunk per file.

``action`` is the plugin itself; everything else is plain synchronous Python that knows nothing of streams: ``walk`` finds
the files, ``reading`` opens and decodes one, ``analysis`` describes it, ``summary`` adds the descriptions up.
"""

"""``python -m apexstream`` and the ``apexstream`` program: the command line."""

from apexstream.cli.main import main

if __name__ == "__main__":
    main()

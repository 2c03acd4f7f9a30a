"""``python -m dashboards.generate [FOLDER]``: write every dashboard's JSON, beside this package or into FOLDER."""

import sys
from pathlib import Path

from dashboards.generate.board import render
from dashboards.generate.boards import BOARDS


def main(folder: Path) -> None:
    """Write the files, and take away those of dashboards that are no more."""
    wanted = {folder / f"{board.uid.removeprefix('apexstream-')}.json": render(board) for board in BOARDS}
    for path in set(folder.glob("*.json")) - wanted.keys():
        path.unlink()
    for path, content in wanted.items():
        path.write_text(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1])

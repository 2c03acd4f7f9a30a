"""The built page."""

from pathlib import Path
from typing import Any

from starlette.responses import Response
from starlette.staticfiles import StaticFiles

_SECURITY = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def page_folder() -> Path | None:
    """Where the built page lies, or None if it was not built."""
    folder = Path(__file__).with_name("page")
    return folder if (folder / "index.html").is_file() else None


def public_paths(page: Path | None) -> frozenset[str]:
    """The paths of the page's files, which anybody may have."""
    files = [] if page is None else [file for file in page.rglob("*") if file.is_file()]
    return frozenset({"/", *(f"/{file.relative_to(page).as_posix()}" for file in files if page is not None)})


class Page(StaticFiles):
    """The built page, under a policy that lets it load nothing from elsewhere."""

    async def get_response(self, path: str, scope: Any) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_SECURITY)
        hashed = path.startswith("assets/")  # Vite puts the content's hash into these names
        response.headers["cache-control"] = "public, max-age=31536000, immutable" if hashed else "no-cache"
        return response

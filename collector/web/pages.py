"""The console's files: built by `make page` into `collector/web/page/`, held in memory with their gzip.

All files lie below `/page/<digest>/`, where the digest is that of all of them, so browsers may keep them for ever;
every other address of the page is the shell, `index.html`, which names the digest.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

BUILT = Path(__file__).with_name("page")
"""Where `console/build.mjs` puts what it builds."""
SHELL = "index.html"
TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
"""No HTML is ever parsed from text, and nothing comes from elsewhere."""
NOT_BUILT = """vmflow: the page is not built

Build it in the source tree, which needs npm's registry once:  make page
Everything else works:  /metrics  /health  /api/openapi.json, and the commands of `vmflow --help`.
"""


@dataclass(frozen=True, slots=True)
class File:
    """A file in memory."""

    kind: str
    plain: bytes
    packed: bytes


class Pages:
    """The files below a directory.  `load` blocks; without it, or with nothing built, there are none."""

    def __init__(self, directory: Path = BUILT) -> None:
        self._directory = directory
        self._files: dict[str, File] = {}
        self.loaded = False
        self.prefix = "/page/"

    def load(self) -> None:
        """Read all files, unless they are read, and pack them.  Blocks."""
        if self.loaded:
            return
        found = sorted(path for path in self._directory.glob("*") if path.suffix in TYPES)
        octets = {path.name: path.read_bytes() for path in found}
        digest = hashlib.sha256(b"".join(name.encode() + b"\0" + plain for name, plain in octets.items()))
        self.prefix = f"/page/{digest.hexdigest()[:16]}/"
        if SHELL in octets:
            octets[SHELL] = octets[SHELL].replace(b"/page/", self.prefix.encode())
            self._files = {
                name: File(TYPES[Path(name).suffix], plain, gzip.compress(plain, 9)) for name, plain in octets.items()
            }
        self.loaded = True

    def shell(self, request: Request) -> Response:
        """Answer an address of the page: the shell, or how to build it."""
        if SHELL not in self._files:
            return PlainTextResponse(NOT_BUILT, 200 if request.url.path == "/" else 404)
        return self._send(request, self._files[SHELL], "no-cache")

    def file(self, request: Request) -> Response:
        """Answer a path below `/page/`."""
        path = request.url.path
        name = path.removeprefix(self.prefix)
        if name == path or name not in self._files:
            return PlainTextResponse("no such file: the page was built again, load it again\n", 404)
        return self._send(request, self._files[name], "public, max-age=31536000, immutable")

    def _send(self, request: Request, file: File, cache: str) -> Response:
        packed = "gzip" in request.headers.get("accept-encoding", "")
        headers = {
            "Content-Type": file.kind,
            "Content-Security-Policy": POLICY,
            "Cache-Control": cache,
            "Vary": "Accept-Encoding",
            "ETag": f'"{self.prefix.split("/")[2]}{"-gz" if packed else ""}"',
        }
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        if packed:
            headers["Content-Encoding"] = "gzip"
        return Response(file.packed if packed else file.plain, headers=headers)

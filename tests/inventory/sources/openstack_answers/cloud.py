"""A cloud on loopback that speaks enough of Keystone v3, Nova 2.1 and Neutron v2.0 for a client that lists."""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

ANSWERS = Path(__file__).parent
PASSWORD = "correct-horse-battery"  # noqa: S105 -- of this cloud
Item = dict[str, Any]


class RefusalError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Cloud:
    """The state of a cloud, which tests change at will, and the server that tells of it."""

    def __init__(self) -> None:
        self.objects: dict[str, list[Item]] = {
            kind: json.loads((ANSWERS / f"{kind}.json").read_text())[kind]
            for kind in ("ports", "networks", "servers", "hypervisors", "projects")
        }
        """What each listing has."""
        self.services = {"identity", "compute", "network"}
        """Those in the catalog."""
        self.forbidden: set[str] = set()
        """Paths, or `all_tenants`, that need more rights than the user has."""
        self.broken: dict[str, int] = {}
        """Path -> HTTP status that it answers with."""
        self.largest_page = 1000
        self.asked: Counter[str] = Counter()
        """Requests by path."""
        self.queries: list[tuple[str, dict[str, list[str]]]] = []
        """Path and query of all listings asked for, in order."""
        self.before_answer: dict[str, Any] = {}
        """Path -> function that is called before it answers."""
        self._tokens = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Cloud:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where it answers; Keystone is under /identity, Nova under /compute, Neutron under /network."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def expire_tokens(self) -> None:
        """Refuse all tokens given so far."""
        self._tokens += 1

    def write_clouds(self, file: Path, **more: object) -> Path:
        """Write a clouds.yaml (JSON is YAML) that has this cloud as `lab`."""
        auth = {
            "auth_url": f"{self.url}/identity",
            "username": "monitor",
            "password": PASSWORD,
            "project_name": "admin",
            "user_domain_id": "default",
            "project_domain_id": "default",
        }
        file.write_text(json.dumps({"clouds": {"lab": {"auth": auth, "region_name": "one"} | more}}))
        return file

    def get(self, path: str, query: dict[str, list[str]], token: str | None) -> Any:
        """The answer to GET."""
        self.asked[path] += 1
        if path in self.before_answer:
            self.before_answer[path]()
        if path in self.broken:
            raise RefusalError(self.broken[path], "broken by the test")
        versions = {
            "/identity": ("v3.14", "/identity/v3/"),
            "/identity/v3": ("v3.14", "/identity/v3/"),
            "/compute": ("v2.1", "/compute/v2.1/"),
            "/compute/v2.1": ("v2.1", "/compute/v2.1/"),
            "/network": ("v2.0", "/network/v2.0/"),
        }
        if path in versions:
            return self._version(*versions[path])
        if token != f"token-{self._tokens}":
            raise RefusalError(401, "The request you have made requires authentication.")
        if path in self.forbidden:
            raise RefusalError(403, f"Policy doesn't allow {path} to be performed.")
        self.queries.append((path, query))
        kinds = {
            "/network/v2.0/ports": "ports",
            "/network/v2.0/networks": "networks",
            "/compute/v2.1/servers/detail": "servers",
            "/compute/v2.1/os-hypervisors/detail": "hypervisors",
            "/identity/v3/projects": "projects",
            "/identity/v3/auth/projects": "projects",
        }
        if path not in kinds:
            raise RefusalError(404, "The resource could not be found.")
        return self._listing(kinds[path], query)

    def authenticate(self, body: Any) -> tuple[str, Any]:
        """A new token and what Keystone tells with it."""
        self.asked["/identity/v3/auth/tokens"] += 1
        if body["auth"]["identity"]["password"]["user"]["password"] != PASSWORD:
            raise RefusalError(401, "The request you have made requires authentication.")
        paths = {"identity": "/identity", "compute": "/compute/v2.1", "network": "/network"}
        catalog = [
            {
                "type": service,
                "name": service,
                "id": service,
                "endpoints": [
                    {"id": service, "interface": "public", "region_id": "one", "region": "one", "url": self.url + path}
                ],
            }
            for service, path in paths.items()
            if service in self.services
        ]
        token = {
            "methods": ["password"],
            "user": {"id": "u", "name": "monitor", "domain": {"id": "default", "name": "Default"}},
            "project": {"id": "p", "name": "admin", "domain": {"id": "default", "name": "Default"}},
            "roles": [{"id": "r", "name": "admin"}],
            "issued_at": "2026-11-25T16:00:00.000000Z",
            "expires_at": "2099-01-01T00:00:00.000000Z",
            "catalog": catalog,
        }
        return f"token-{self._tokens}", {"token": token}

    def _version(self, name: str, path: str) -> Any:
        version = {
            "id": name,
            "status": "stable" if name == "v3.14" else "CURRENT",
            "links": [{"rel": "self", "href": self.url + path}],
        }
        return {"versions": {"values": [version]} if name == "v3.14" else [version], "version": version}

    def _listing(self, kind: str, query: dict[str, list[str]]) -> Any:
        items = self.objects[kind]
        if kind == "servers":
            if query.get("all_tenants") and "all_tenants" in self.forbidden:
                raise RefusalError(
                    403, "Policy doesn't allow os_compute_api:servers:detail:get_all_tenants to be performed."
                )
            since = query.get("changes-since", [""])[0]
            # Deleted servers are listed only with changes-since.
            items = [item for item in items if (item["updated"] >= since if since else item["status"] != "DELETED")]
        if kind in ("ports", "networks"):
            if unknown := query.keys() - {"limit", "marker", "fields", "id"}:
                raise RefusalError(400, f"{sorted(unknown)} is invalid attribute for filtering")
            items = sorted(items, key=lambda item: item["id"])
            if "id" in query:
                items = [item for item in items if item["id"] in query["id"]]
        elif kind != "servers":
            return {kind: items, "links": {"next": None}}
        page, more = self._page(kind, items, query)
        if "fields" in query:
            page = [{field: item[field] for field in query["fields"] if field in item} for item in page]
        # Named wrongly, as by a proxy that knows nothing of those before it.
        links = [{"rel": "next", "href": "http://internal.invalid/next"}] if more else []
        return {kind: page} | ({f"{kind}_links": links} if links else {})

    def _page(self, kind: str, items: list[Item], query: dict[str, list[str]]) -> tuple[list[Item], bool]:
        start = 0
        if marker := query.get("marker", [""])[0]:
            ids = [item["id"] for item in items]
            if marker not in ids:
                raise RefusalError(404 if kind != "servers" else 400, f"marker [{marker}] not found")
            start = ids.index(marker) + 1
        size = min(int(query.get("limit", ["1000"])[0]), self.largest_page)
        return items[start : start + size], len(items) > start + size


def _handler(cloud: Cloud) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            split = urlsplit(self.path)
            self._answer(
                lambda: (None, cloud.get(split.path.rstrip("/"), parse_qs(split.query), self.headers["X-Auth-Token"]))
            )

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(lambda: cloud.authenticate(body), 201)

        def _answer(self, make: Any, status: int = 200) -> None:
            token = None
            try:
                token, answer = make()
            except RefusalError as refusal:
                status, answer = refusal.status, {"error": {"code": refusal.status, "message": str(refusal)}}
            data = json.dumps(answer).encode()
            self.send_response(status)
            if token is not None:
                self.send_header("X-Subject-Token", token)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Handler

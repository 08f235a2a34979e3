"""The REST API of one cloud: raw JSON, page by page, through the session of openstacksdk.

The SDK finds credentials and endpoints, authenticates, and authenticates again when a token has expired.  Its resource
objects are not used: they take most of the time of a long listing (see `openstack.py`).
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

from collector.inventory.settings import OpenstackSettings
from collector.inventory.sources.base import SourceError, SourceSetupError
from schemas.text import clean

Item = dict[str, Any]
Query = Mapping[str, str | list[str]]

PAGE = "1000"
"""Objects asked for at a time, as `limit` in a query: the limit of Nova; Neutron has none by default."""
MAX_OBJECTS = 1_000_000
"""Objects of one kind at most: an answer with more is not from a real cloud, or goes in circles."""
MAX_BYTES = 64 * 2**20
"""Octets of one answer: a page of a thousand servers has about 2 MiB, all hypervisors of a large cloud about 10."""
MAX_REASON = 400
"""Characters of another program's error message that are passed on."""
DEADLINE_SHARE = 0.9
"""Part of the deadline after which a read ends by itself, so that the poller need not give it up."""

VERSIONS = {"network": "2", "compute": "2", "identity": "3"}
"""Major versions of the APIs.  No microversion is requested: Nova then answers as 2.1, in every release."""

_USER = re.compile(r"//[^/@\s]*@")
_QUERY = re.compile(r"\?[^\s)'\"]*=[^\s)'\"]*")


class OpenstackRefusedError(SourceError):
    """The cloud does not provide this: `status` is the HTTP status, 0 where the cloud has no such service."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def load() -> Any:
    """Return the module `openstack`.  Raises SourceSetupError where it is missing."""
    try:
        import openstack.config  # noqa: PLC0415 -- a part that is installed only for those who have such a cloud
    except ImportError as error:
        raise SourceSetupError(
            f"inventory.openstack needs openstacksdk, which cannot be loaded ({error}): pip install 'vmflow[openstack]'"
        ) from error
    for library in ("openstack", "keystoneauth"):
        # What matters in their warnings is in the errors here; some quote lines of clouds.yaml, passwords included.
        logging.getLogger(library).addHandler(logging.NullHandler())
        logging.getLogger(library).propagate = False
    return openstack


class Client:
    """One cloud, queried by one thread at a time.  Opens itself with the first call, and again after `close`."""

    def __init__(self, name: str, settings: OpenstackSettings, stopping: threading.Event) -> None:
        """`name` begins every message; `stopping` ends a read under way.  Raises SourceSetupError as `load` does."""
        load()
        from keystoneauth1 import exceptions as ks  # noqa: PLC0415
        from openstack import exceptions as sdk  # noqa: PLC0415

        self._failures = (ks.ClientException, sdk.SDKException, OSError)
        """What a call raises: OSError is the base of the errors of requests, and what it raises for certificate
        files."""
        self._absent = ks.EndpointNotFound
        self._unauthorized = ks.Unauthorized
        self._name = name
        self._settings = settings
        self._stopping = stopping
        self._ends = 0.0
        self._region: Any = None
        self._adapters: dict[str, Any] = {}

    def begin(self) -> None:
        """Begin the deadline of one read; find the cloud if necessary.  Raises SourceSetupError."""
        self._ends = time.monotonic() + DEADLINE_SHARE * self._settings.deadline_seconds
        if self._region is None:
            self._region = find_region(self._name, self._settings)

    def close(self) -> None:
        """Close connections and forget the token.  Does not raise."""
        region, self._region = self._region, None
        self._adapters = {}
        if region is not None:
            region.get_session().session.close()

    def pages(self, service: str, path: str, key: str, query: Query) -> Iterator[list[Item]]:
        """Yield the objects under `key` of a listing, page by page.  Raises OpenstackRefusedError, SourceError.

        The next page is asked for by the id of the last object, not by the link in the answer: behind a proxy, links
        often name the wrong host.
        """
        total = 0
        markers: list[str] = []
        while True:
            answer = self._after(service, path, query, markers)
            page = answer.get(key)
            if not isinstance(page, list) or not all(isinstance(item, dict) for item in page):
                raise SourceError(f"{self._name}: {service} {path}: expected a list of objects as {key!r}")
            total += len(page)
            if total > MAX_OBJECTS:
                raise SourceError(f"{self._name}: {service} {path}: more than {MAX_OBJECTS} objects")
            yield page
            markers = [str(item["id"]) for item in page if "id" in item][-3:]
            if not markers or not _has_next(answer, key):
                return

    def listing(self, service: str, path: str, key: str, query: Query) -> list[Item]:
        """Return all objects of a listing.  Raises OpenstackRefusedError, SourceError."""
        return [item for page in self.pages(service, path, key, query) for item in page]

    def get(self, service: str, path: str, query: Query) -> Item:
        """Return the JSON object that the API answers with.  Raises OpenstackRefusedError, SourceError."""
        where = f"{self._name}: {service} {path}"
        try:
            self._region.get_session().timeout = self._left()  # of signing in and finding endpoints
            adapter = self._adapter(service)
            response = adapter.get(
                path, params=dict(query), timeout=self._left(), stream=True, raise_exc=False, log=False
            )
            with closing(response):
                body = self._body(where, response)
        except self._absent:
            region = self._region.get_region_name(service)
            raise OpenstackRefusedError(
                f"{where}: the cloud has no {service} service{f' in region {region}' if region else ''}, "
                f"and clouds.yaml no {service}_endpoint_override",
                0,
            ) from None
        except self._unauthorized as error:
            raise SourceError(f"{where}: the credentials are not accepted: {_clean(error)}") from None
        except self._failures as error:
            # Not chained: the exceptions of the libraries could hold credentials.
            raise SourceError(f"{where}: {type(error).__name__}: {_clean(error)}") from None
        answer = _parsed(body)
        if response.status_code == 200 and isinstance(answer, dict):
            return answer
        reason = f"{where}: HTTP {response.status_code} {response.reason}: {_reason(answer)}"
        if response.status_code in (400, 403, 404, 405):
            raise OpenstackRefusedError(reason, response.status_code)
        if response.status_code == 200:
            raise SourceError(f"{where}: expected a JSON object, got {_clean(body[:60])}")
        raise SourceError(reason)

    def _after(self, service: str, path: str, query: Query, markers: list[str]) -> Item:
        """Return the page that follows `markers`, the last of them if it still exists: objects are deleted
        meanwhile."""
        if not markers:
            return self.get(service, path, query)
        for marker in reversed(markers[1:]):
            try:
                return self.get(service, path, {**query, "marker": marker})
            except OpenstackRefusedError as refused:
                if refused.status not in (400, 404):
                    raise
        return self.get(service, path, {**query, "marker": markers[0]})

    def _adapter(self, service: str) -> Any:
        """Return the adapter of one service.  Raises OpenstackRefusedError and what the SDK raises."""
        adapter = self._adapters.get(service)
        if adapter is None:
            from keystoneauth1.adapter import Adapter  # noqa: PLC0415

            region = self._region
            if not region.has_service(service):
                raise OpenstackRefusedError(f"{self._name}: service {service} is switched off in clouds.yaml", 0)
            adapter = Adapter(
                session=region.get_session(),
                service_type=region.get_service_type(service),
                interface=region.get_interface(service),
                region_name=region.get_region_name(service),
                endpoint_override=region.get_endpoint(service),
                version=VERSIONS[service],
            )
            if service == "network":
                # Usually written without its version, and not completed where there is no catalog.
                adapter.endpoint_override = _with_version(adapter.endpoint_override or adapter.get_endpoint())
            self._adapters[service] = adapter
        return adapter

    def _left(self) -> float:
        """Return the seconds that this read may still take.  Raises SourceError if none."""
        left = self._ends - time.monotonic()
        if self._stopping.is_set():
            raise SourceError(f"{self._name}: stopping")
        if left <= 0:
            raise SourceError(
                f"{self._name}: no complete answer within {DEADLINE_SHARE:.0%} of deadline_seconds = "
                f"{self._settings.deadline_seconds:g}; raise it if the cloud is large"
            )
        return left

    def _body(self, where: str, response: Any) -> bytes:
        body = bytearray()
        for chunk in response.iter_content(1 << 18):
            body += chunk
            if len(body) > MAX_BYTES:
                raise SourceError(f"{where}: the answer has more than {MAX_BYTES} octets")
            self._left()
        return bytes(body)


def find_region(name: str, settings: OpenstackSettings) -> Any:
    """Return the SDK's description of the cloud that the settings name.  Raises SourceSetupError, without secrets."""
    from keystoneauth1.exceptions import ClientException  # noqa: PLC0415
    from openstack.config import loader  # noqa: PLC0415
    from openstack.exceptions import ConfigException  # noqa: PLC0415

    file = settings.config_file
    if file is not None:
        try:
            with file.open("rb"):
                pass
        except OSError as error:
            raise SourceSetupError(f"{name}: config_file {file}: {error.strerror}; expected a clouds.yaml") from error
    try:
        config = loader.OpenStackConfig(
            config_files=None if file is None else [str(file)],
            load_envvars=file is None,  # the file of the settings comes before OS_CLIENT_CONFIG_FILE
            app_name="vmflow",
        )
        cloud = _cloud_name(name, settings, config, loader)
        region = config.get_one(cloud)
        region.get_session()
        return region
    except (ConfigException, ClientException) as error:
        where = file or "clouds.yaml"
        raise SourceSetupError(f"{name}: {where}: cloud {settings.cloud!r}: {_clean(error)}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # the SDK does not validate the file
        where = file or "clouds.yaml"
        raise SourceSetupError(
            f"{name}: {where}: cloud {settings.cloud!r}: expected a mapping of names to clouds, and of each cloud to "
            f"its settings, as openstacksdk documents it ({type(error).__name__})"
        ) from None


def _cloud_name(name: str, settings: OpenstackSettings, config: Any, loader: Any) -> str:
    """Return the name under which the SDK knows the cloud.  Raises SourceSetupError if it does not."""
    known = set(config.get_cloud_names())
    if config.config_filename is None and config.envvar_key in known:
        return str(config.envvar_key)  # no file, but OS_AUTH_URL and the like
    if known == {"defaults"}:
        known = set()  # the default that the SDK invents where there is none
    if settings.cloud in known:
        return settings.cloud
    if config.config_filename is not None:
        where = f"{config.config_filename} does not have it"
    elif settings.config_file is not None:
        where = f"{settings.config_file} is no YAML file with clouds in it"
    else:
        folders = ", ".join(dict.fromkeys(loader.CONFIG_SEARCH_PATH))
        where = f"no clouds.yaml in {folders}, and no OS_AUTH_URL in the environment"
    raise SourceSetupError(
        f"{name}: cloud {settings.cloud!r} is not known: {where}; known clouds: {', '.join(sorted(known)) or 'none'}"
    )


def _with_version(endpoint: str | None) -> str | None:
    """Return the endpoint of Neutron's only version."""
    if endpoint is None or endpoint.rstrip("/").endswith("/v2.0"):
        return endpoint
    return endpoint.rstrip("/") + "/v2.0"


def _has_next(answer: Item, key: str) -> bool:
    """Return whether there is a next page, as stated by Neutron and Nova (`ports_links`) or Keystone (`links`)."""
    links = answer.get(f"{key}_links")
    if isinstance(links, list):
        return any(isinstance(link, dict) and link.get("rel") == "next" for link in links)
    links = answer.get("links")
    return isinstance(links, dict) and bool(links.get("next"))


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _reason(answer: object) -> str:
    """Return the message in an error: {"NeutronError": {"message": ...}}, {"forbidden": {"message": ...}}, ..."""
    for value in answer.values() if isinstance(answer, dict) else ():
        if isinstance(value, dict) and value.get("message"):
            return _clean(value["message"])
    return "no reason given"


def _clean(text: object) -> str:
    """Return another program's text for a message: one line, short, URLs without queries, user names and passwords."""
    line = " ".join((text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else str(text)).split())
    return clean(_QUERY.sub("", _USER.sub("//", line)), MAX_REASON)

"""Settings of the web server."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field


class WebSettings(BaseModel, frozen=True, extra="forbid"):
    """Where /metrics, /health and the API are served."""

    enabled: bool = True
    """False: no web server."""
    host: str = "127.0.0.1"
    """Address to bind; one that others can reach needs logins: section `access`."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    """TCP port; 0 takes a free one."""

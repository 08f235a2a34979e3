"""The web stage: /metrics, /health and the API."""

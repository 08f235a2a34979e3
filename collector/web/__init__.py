"""The web stage: /metrics, /health and the API; the pages join it later."""

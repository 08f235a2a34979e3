"""The web stage: /metrics and /health; the pages and the API join it later."""

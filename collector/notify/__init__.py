"""The delivery stage: alerts to people and to Alertmanager, each receiver by itself."""

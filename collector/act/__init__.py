"""The act stage: what alerts make vmflow do, if the settings say so."""

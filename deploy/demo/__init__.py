"""Demonstrations: the service with captures (`demo`), and a simulated cloud that exports (`cloud`)."""

"""Demonstrations: the service with captures (`demo`), and a made-up cloud that exports (`cloud`)."""

"""Coverage-guided fuzzing of the uncompiled decoders (`make fuzz`), and the inputs it found as ordinary tests."""

"""The agent: what runs beside the collector, on hypervisors and in VMs.  The standard library is all it needs; the
settings of an agent that runs for good need pydantic.

It imports nothing of `collector`, `decoders` or `schemas`, and prints nothing: `collector/commands/agent.py` does.

    stamp      STAMP packets and their TLVs (RFC 8762, RFC 8972): octets in, values out, and back
    clock      times on the wire, the error of this machine's clock, what two clocks say of each other
    session    the sender's book: which probes came back, when, and what that says of the path
    sockets    UDP with the kernel's times of sending and receipt
    reflector  answers probes: whom, how often, with what
    sender     sends the probes of one session
    windows    the book of a session that goes on for good, by windows of the clock
    outbox     results on their way to the collector
    settings   the settings of an agent that runs for good
    run        that agent: sessions, reflector, results
    text       how people write the other end, and keys
"""

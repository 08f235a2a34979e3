"""Names the VM at each end of a flow, at the flow's own time, from what libvirt, OVSDB and others know."""

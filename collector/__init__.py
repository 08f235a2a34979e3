"""The process: from UDP sockets to rows, windows and alerts.  Each folder is a stage; `app` joins them."""

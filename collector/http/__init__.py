"""Who may ask: login, roles and TLS, shared by the web server and the SQL endpoint."""

"""Which requests may come in: login, roles and TLS, shared by the web server and the SQL endpoint."""

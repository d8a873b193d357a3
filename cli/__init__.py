"""The command `atelier`, a client of the server's HTTP addresses. It needs neither torch nor Ray."""

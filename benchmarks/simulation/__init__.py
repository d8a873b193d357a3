"""A simulated cluster of Denoisers, on which the scheduling code of the server runs under a virtual clock."""

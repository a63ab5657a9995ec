"""The HTTP interface: requests in, the domain's services called, answers and events out."""

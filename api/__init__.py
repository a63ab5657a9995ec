"""The HTTP interface: requests in, the domain's services called, answers and events out."""

import gc

# Nearly all that importing makes stays for good. By default (700 objects) the search for garbage in it took a fifth of
# the start.
gc.set_threshold(50_000, 20, 20)

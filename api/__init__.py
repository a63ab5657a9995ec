"""The HTTP interface: requests in, the domain's services called, answers and events out."""

import gc
import sys

# Nearly all that importing makes stays for good. By default (700 objects) the search for garbage in it took a fifth of
# the start.
gc.set_threshold(50_000, 20, 20)

# A request's thread hands the interpreter over at each query; by default (5 ms) it may wait so long each time while the
# loop serves hundreds of streams, which took submissions from 0.5 s to 2.5 s at the 99th percentile.
sys.setswitchinterval(0.0005)

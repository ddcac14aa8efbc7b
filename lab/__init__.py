"""A fleet in a box: simulated modems on ptys, shaped links in network namespaces, faults; the demo."""

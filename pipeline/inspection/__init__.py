"""Tools that look: replay, preview, statistical tests, bottlenecks, the machine."""

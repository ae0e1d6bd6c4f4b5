"""From a path to a slice in memory, in a child process with limits."""

"""The same work done by other systems, for comparison; their packages are needed to run these."""

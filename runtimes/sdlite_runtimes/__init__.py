"""Engine adapters, one file each; sdlite reaches them only through its registry."""

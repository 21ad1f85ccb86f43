"""Programs that measure sdlite: speed, memory and quality, written as JSON to `results/`."""

"""sdlite's own API, ``/api/v1``: jobs that are asked for, watched and fetched."""

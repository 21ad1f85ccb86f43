"""OpenAI's images API, ``/v1``."""

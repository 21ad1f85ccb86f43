"""The server: AUTOMATIC1111's API, OpenAI's images API and one of its own over one engine room."""

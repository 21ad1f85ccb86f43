"""The API of AUTOMATIC1111's web UI, ``/sdapi/v1``, with its fields, spellings and errors."""

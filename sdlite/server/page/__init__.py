"""The page in the browser: sources in ``src``, what is served in ``built``."""

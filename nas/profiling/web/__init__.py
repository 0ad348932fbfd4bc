"""The `web` runtime: LiteRT models in a browser, of a phone or of this machine, by LiteRT.js."""

"""Serve a model over HTTP: a web page and a JSON API."""

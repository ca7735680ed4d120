"""The resources over HTTP: one module for each, with its models and its handlers."""

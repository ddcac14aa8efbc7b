"""The contract between probe, responder and collector: messages, topics, encoding. Imports msgspec alone."""

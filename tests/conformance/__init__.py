"""The conformance suite of the Durable Streams protocol, and its JavaScript client, against a gateway that runs."""

"""What a host is doing, as a stream that goes on until it is cancelled."""

"""What `gateway.py` and `soak.py` share: a mock upstream, load generators, gateways to start."""

"""`genserve bench`: how fast this machine runs GenServe. Measurements, not tests."""

"""What `genserve doctor` looks at, one small module for each kind of thing."""

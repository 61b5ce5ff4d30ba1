"""Trains the tiny Flux family that ships with GenServe, from scratch, on drawn pictures.

The steps, in order (see `cli.py`): draw captioned pictures, train the VAE, teach the text encoders
to name what a caption says, train the transformer by rectified flow, distil classifier-free
guidance into its `guidance` input, export to diffusers' layout, and measure the exported pipeline.
"""

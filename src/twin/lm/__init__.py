"""The hybrid RWKV-6 + Mamba-2 language model: network, kernels, training, gates, decoding.

Imports nothing of the rest of the product and could be lifted out whole. Importing the package
itself loads no torch; `config` and `errors` need none either.
"""

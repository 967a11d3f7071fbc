"""Dynamical variational autoencoders as probabilistic programs in Pyro."""

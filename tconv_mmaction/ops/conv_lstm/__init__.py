"""Convolutional LSTM over the frames of a clip."""

"""Any 3D convolution whose kernel is given or made."""

"""3TConv: a 3D convolution whose slices are transforms of one."""

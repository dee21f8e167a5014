"""Drawing: films, images, and figures of temporal parameters."""

"""Pictures that begin with a picture: image to image, inpainting, second passes, saved states."""

"""Files of named tensors, read without believing or executing anything in them."""

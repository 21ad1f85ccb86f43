"""From a prompt to what the U-Net is conditioned on."""

"""Files of others that change a package: LoRA and its relatives, embeddings, autoencoders."""

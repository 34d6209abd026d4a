"""Linear relational embeddings: a relation as an affine function of the state of its subject."""

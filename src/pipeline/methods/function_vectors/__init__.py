"""Function vectors: what carries an in-context task, and its insertion into other prompts."""

"""Facts: where they are recalled, and edits that change them."""

"""Walk over models, and build them again with some layers replaced: `walker` has both."""

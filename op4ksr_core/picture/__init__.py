"""Pictures: files, sizes, colours, and drawing."""

"""The media index, and the files it names."""

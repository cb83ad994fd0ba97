"""Work that the official engine does: object forms that only it can convert, and jobs on whole files."""

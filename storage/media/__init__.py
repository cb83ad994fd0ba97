"""Users' media: the index of files of each user, and the contents, which all users share."""

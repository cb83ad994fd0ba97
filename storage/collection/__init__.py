"""SQL on the tables of a collection, in a checkout; and the checks of uploaded collections."""

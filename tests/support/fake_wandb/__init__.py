"""A folder for the path of a trainer; see the package in it."""

"""The survey: names of networks in; one row of measured facts for each, and tables of the rows, out."""
